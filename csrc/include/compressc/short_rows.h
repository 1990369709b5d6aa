// KL(p || q) of short rows, as many at once as a vector has lanes: lane r belongs to row r. Same
// arithmetic as softmax_kl.h, but nothing is summed across lanes and no row waits for itself, which
// would take longer than the exponentials.
#pragma once

#include "compressc/softmax_kl.h"

namespace compressc::COMPRESSC_ISA {

inline constexpr int kShortVocab = 128;  // what follows stays in the first-level cache

// Logits, and then exponentials, of Vec::width rows: one vector per token.
struct ShortRows {
  Vec s[kShortVocab], t[kShortVocab];
};

// Which lanes stand for a row that counts, their number, and the weight of each.
struct Lanes {
  int rows;
  float weight[Vec::width];  // includes the scale; 0: the row is not read
};

inline Lanes lanes_of(const SoftmaxKl& a, std::int64_t first, int rows) {
  Lanes lanes{rows, {}};
  for (int r = 0; r < rows; ++r) {
    lanes.weight[r] = a.scale * (a.weight == nullptr ? 1.0f : a.weight[first + r]);
  }
  return lanes;
}

// Tokens to vectors of rows. Returns the maximum of each lane; NaN raises nothing.
template <typename S>
inline Vec load_lanes_of_rows(const S* p, std::int64_t stride, int vocab, const Lanes& lanes, Vec* x) {
  constexpr int W = Vec::width;
  Vec high = set1(-INFINITY);
  for (int from = 0; from < vocab; from += W) {
    const int n = vocab - from < W ? vocab - from : W;
    Vec tile[W];
    for (int r = 0; r < W; ++r) {
      const bool read = r < lanes.rows && lanes.weight[r] != 0;
      tile[r] = read ? load_partial(p + r * stride + from, n, 0) : set1(0);
    }
    transpose(tile);
    for (int i = 0; i < n; ++i) {
      x[from + i] = tile[i];
      high = max(tile[i], high);
    }
  }
  return high;
}

struct ShortSums {
  float max_s[Vec::width], max_t[Vec::width];
  float z_t[Vec::width], excess[Vec::width], dot[Vec::width];
};

// Logits to exponentials, in place, and their sums.
inline void short_sums(ShortRows& x, int vocab, Vec max_s, Vec max_t, const Exp& exp, ShortSums& sums) {
  store(sums.max_s, max_s);
  store(sums.max_t, max_t);
  float shift[2][Vec::width];
  for (int r = 0; r < Vec::width; ++r) {
    shift[0][r] = finite_or_zero(sums.max_s[r]);
    shift[1][r] = finite_or_zero(sums.max_t[r]);
  }
  const Vec shift_s = load(shift[0]), shift_t = load(shift[1]), zero = set1(0);
  Vec z_t = zero, excess = zero, dot = zero;
  for (int from = 0; from < vocab; from += kRun) {
    const int to = from + kRun < vocab ? from + kRun : vocab;
    Vec run_z = zero, run_excess = zero, run_dot = zero;
    for (int i = from; i < to; ++i) {
      const Vec x_s = sub(x.s[i], shift_s), x_t = sub(x.t[i], shift_t);
      const Vec e_s = exp(x_s), e_t = exp(x_t);
      x.s[i] = e_s;
      x.t[i] = e_t;
      run_z = add(run_z, e_t);
      run_excess = add(run_excess, sub(e_s, e_t));
      run_dot = fma_where_positive(e_t, sub(x_t, x_s), run_dot);
    }
    z_t = add(z_t, run_z);
    excess = add(excess, run_excess);
    dot = add(dot, run_dot);
  }
  store(sums.z_t, z_t);
  store(sums.excess, excess);
  store(sums.dot, dot);
}

// What the exponentials of each lane are multiplied by to give its gradient.
struct Factors {
  float s[Vec::width], t[Vec::width];
};

// The losses of lanes, and factors of 0 for rows that do not count.
inline void short_losses(const ShortSums& sums, const Lanes& lanes, float temperature, float* loss,
                         Factors& factors) {
  double kl[Vec::width], over_s[Vec::width], over_t[Vec::width];
  for (int r = 0; r < Vec::width; ++r) {  // without a branch: the compiler makes vectors of it
    const double z_t = sums.z_t[r], excess = sums.excess[r];
    over_t[r] = temperature / z_t;
    over_s[r] = temperature / (z_t + excess);
    kl[r] = sums.dot[r] / z_t / temperature + quick_log1p(excess / z_t);
  }
  for (int r = 0; r < Vec::width; ++r) {
    const bool masked = sums.max_s[r] == -INFINITY || sums.max_t[r] == -INFINITY;
    const bool counts = lanes.weight[r] != 0 && !(masked && sums.excess[r] == sums.excess[r]);
    const double weight = lanes.weight[r];
    const double value = kl[r] < 0 ? 0 : kl[r];
    factors.s[r] = counts ? static_cast<float>(weight * over_s[r]) : 0;
    factors.t[r] = counts ? static_cast<float>(weight * over_t[r]) : 0;
    if (r >= lanes.rows) continue;
    loss[r] = counts ? static_cast<float>(weight * value * temperature * temperature) : 0;
  }
}

template <typename S>
inline void short_gradients(const ShortRows& x, int vocab, int rows, const Factors& factors, S* g) {
  constexpr int W = Vec::width;
  const Vec f_s = load(factors.s), f_t = load(factors.t);
  for (int from = 0; from < vocab; from += W) {
    const int n = vocab - from < W ? vocab - from : W;
    Vec tile[W];
    for (int i = 0; i < W; ++i) {
      tile[i] = i < n ? sub(mul(x.s[from + i], f_s), mul(x.t[from + i], f_t)) : set1(0);
    }
    transpose(tile);
    for (int r = 0; r < rows; ++r) store_partial(g + r * vocab + from, tile[r], n);
  }
}

// Rows [first, first + rows) of the problem, 0 < vocab <= kShortVocab, rows <= Vec::width.
template <typename S, typename T>
inline void short_rows(const SoftmaxKl& a, std::int64_t first, int rows, const Exp& exp) {
  const int vocab = static_cast<int>(a.vocab);
  const Lanes lanes = lanes_of(a, first, rows);
  ShortRows x;
  const S* const s = static_cast<const S*>(a.student) + first * a.student_stride;
  const T* const t = static_cast<const T*>(a.teacher) + first * a.teacher_stride;
  const Vec max_s = load_lanes_of_rows(s, a.student_stride, vocab, lanes, x.s);
  const Vec max_t = load_lanes_of_rows(t, a.teacher_stride, vocab, lanes, x.t);
  ShortSums sums;
  short_sums(x, vocab, max_s, max_t, exp, sums);
  Factors factors;
  short_losses(sums, lanes, a.temperature, a.loss + first, factors);
  if (a.grad != nullptr) {
    short_gradients(x, vocab, rows, factors, static_cast<S*>(a.grad) + first * a.vocab);
  }
}

}  // namespace compressc::COMPRESSC_ISA
