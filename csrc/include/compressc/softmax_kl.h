// softmax_kl for one row: one pass over the logits, one exponential per logit, no softmax in memory.
//
// A row is cut into blocks that stay in the first-level cache. Each block is shifted by the maximum of
// the row so far, m_b, and leaves its exponentials in scratch; when the row's maximum m is known,
// block b only needs the factor e^((m_b - m) / T), for most blocks 1. With shifted logits,
// d = (t - m_t) - (s - m_s),
//   KL = sum(e_t d) / (T z_t) + log(1 + (z_s - z_t) / z_t)
//   gradient of T^2 KL = T (e_s / z_s - e_t / z_t)
// so an offset common to all logits cancels before anything is rounded, and so does what student and
// teacher have in common: z_s - z_t is summed element by element.
#pragma once

#include "compressc/kernels.h"
#include "compressc/vec.h"

namespace compressc::COMPRESSC_ISA {

inline constexpr int kBlock = 1024;  // two blocks of logits and two of exponentials: 16 KiB
inline constexpr int kRun = 8;       // vectors summed before a sum joins the others: a long sum
                                     // would round away what is small in it

// What is kept of each block, as arrays over the blocks of a row. `factor` takes a block's
// exponentials to the row's maximum. `excess` is z_s - z_t.
struct Blocks {
  float *max_s, *max_t, *z_t, *excess, *dot, *factor_s, *factor_t;
  static constexpr int arrays = 7;
};

// One row's working space, one thread's own.
struct Scratch {
  float *exp_s, *exp_t;  // exponentials, relative to their block's maximum
  Blocks blocks;
};

// Sums over a row, relative to the row's maxima; `masked` where either side has no finite logit.
struct RowSums {
  double z_s, z_t, excess, dot;
  bool masked;
};

inline float finite_or_zero(float m) { return m == -INFINITY ? 0.0f : m; }

// Raises the maxima so far by those of one block. NaN raises nothing: the sums will show it.
template <typename S, typename T>
inline void block_maxima(const S* s, const T* t, int n, float& m_s, float& m_t) {
  constexpr int W = Vec::width;
  Vec a = set1(-INFINITY), b = a, c = a, d = a;
  int i = 0;
  for (; i + 2 * W <= n; i += 2 * W) {
    a = max(load(s + i), a);
    b = max(load(t + i), b);
    c = max(load(s + i + W), c);
    d = max(load(t + i + W), d);
  }
  for (; i < n; i += W) {
    const int lanes = n - i < W ? n - i : W;
    a = max(load_partial(s + i, lanes, -INFINITY), a);
    b = max(load_partial(t + i, lanes, -INFINITY), b);
  }
  const float block_s = reduce_max(max(a, c)), block_t = reduce_max(max(b, d));
  m_s = block_s > m_s ? block_s : m_s;
  m_t = block_t > m_t ? block_t : m_t;
}

// Fills exp_s and exp_t of one block (whole vectors; lanes past n get 0) and its sums.
template <typename S, typename T>
inline void block_sums(const S* s, const T* t, int n, const Exp& exp, const Blocks& k,
                       std::int64_t b, float* exp_s, float* exp_t) {
  constexpr int W = Vec::width;
  k.max_s[b] = b == 0 ? -INFINITY : k.max_s[b - 1];
  k.max_t[b] = b == 0 ? -INFINITY : k.max_t[b - 1];
  block_maxima(s, t, n, k.max_s[b], k.max_t[b]);
  const Vec shift_s = set1(finite_or_zero(k.max_s[b])), shift_t = set1(finite_or_zero(k.max_t[b]));
  const Vec zero = set1(0);
  Vec z_t = zero, excess = zero, dot = zero;
  for (int from = 0; from < n; from += kRun * W) {
    const int to = n - from < kRun * W ? n : from + kRun * W;
    Vec run_z = zero, run_excess = zero, run_dot = zero;
    const auto step = [&](Vec raw_s, Vec raw_t, int i) {
      const Vec x_s = sub(raw_s, shift_s), x_t = sub(raw_t, shift_t);
      const Vec e_s = exp(x_s), e_t = exp(x_t);
      store(exp_s + i, e_s);
      store(exp_t + i, e_t);
      run_z = add(run_z, e_t);
      run_excess = add(run_excess, sub(e_s, e_t));
      run_dot = fma_where_positive(e_t, sub(x_t, x_s), run_dot);
    };
    int i = from;
    for (; i + W <= to; i += W) step(load(s + i), load(t + i), i);
    const int left = to - i;
    if (left > 0) step(load_partial(s + i, left, -INFINITY), load_partial(t + i, left, -INFINITY), i);
    z_t = add(z_t, run_z);
    excess = add(excess, run_excess);
    dot = add(dot, run_dot);
  }
  k.z_t[b] = reduce_add(z_t);
  k.excess[b] = reduce_add(excess);
  k.dot[b] = reduce_add(dot);
}

// factor[b] = e^((m_b - m) / T), where m is the last maximum, the row's.
inline void block_factors(const float* maxima, float* factor, std::int64_t blocks,
                          const Exp& exp) {
  const Vec shift = set1(finite_or_zero(maxima[blocks - 1]));
  for (std::int64_t b = 0; b < blocks; b += Vec::width) {
    const int n = static_cast<int>(blocks - b < Vec::width ? blocks - b : Vec::width);
    const Vec x = sub(load_partial(maxima + b, n, -INFINITY), shift);
    store_partial(factor + b, exp(x), n);
  }
}

inline RowSums join_blocks(const Blocks& k, std::int64_t blocks, const Exp& exp) {
  RowSums r{0, 0, 0, 0, true};
  if (blocks == 0) return r;
  block_factors(k.max_s, k.factor_s, blocks, exp);
  block_factors(k.max_t, k.factor_t, blocks, exp);
  const double m_s = finite_or_zero(k.max_s[blocks - 1]), m_t = k.max_t[blocks - 1];
  for (std::int64_t b = 0; b < blocks; ++b) {
    const double f_s = k.factor_s[b], f_t = k.factor_t[b], z_t = k.z_t[b];
    const double z_s = z_t + k.excess[b];
    r.z_s += f_s * z_s;
    r.z_t += f_t * z_t;
    r.excess += f_t * k.excess[b] + (f_s - f_t) * z_s;
    if (!(f_t > 0)) continue;  // no mass here, and d may be infinite
    r.dot += f_t * (k.dot[b] + z_t * ((k.max_t[b] - m_t) - (finite_or_zero(k.max_s[b]) - m_s)));
  }
  // A NaN anywhere must come out, so only true zeros count as masked.
  r.masked = (k.max_s[blocks - 1] == -INFINITY && r.z_s == r.z_s) ||
             (k.max_t[blocks - 1] == -INFINITY && r.z_t == r.z_t);
  return r;
}

// g = e_s * a - e_t * b, for one block.
template <bool kStream, typename S>
inline void weighted_difference(S* g, const float* e_s, const float* e_t, int n, Vec a, Vec b) {
  constexpr int W = Vec::width;
  const auto value = [&](int i) { return sub(mul(load(e_s + i), a), mul(load(e_t + i), b)); };
  int i = 0;
  if constexpr (kStream) {
    const auto past = reinterpret_cast<std::uintptr_t>(g) % (W * sizeof(S)) / sizeof(S);
    if (past != 0) {
      i = W - static_cast<int>(past) < n ? W - static_cast<int>(past) : n;
      store_partial(g, value(0), i);
    }
    for (; i + W <= n; i += W) stream(g + i, value(i));
  } else {
    for (; i + W <= n; i += W) store(g + i, value(i));
  }
  if (i < n) {
    const Vec tail = sub(mul(load_partial(e_s + i, n - i, 0), a), mul(load_partial(e_t + i, n - i, 0), b));
    store_partial(g + i, tail, n - i);
  }
}

template <typename S>
inline void fill_zero(S* g, std::int64_t n) {
  std::memset(g, 0, static_cast<std::size_t>(n) * sizeof(S));
}

template <bool kStream, typename S, typename T>
inline void softmax_kl_row(const S* s, const T* t, S* g, float* loss, std::int64_t vocab,
                           float temperature, float weight, const Scratch& w) {
  const Exp exp(temperature);
  const std::int64_t blocks = (vocab + kBlock - 1) / kBlock;
  const auto length = [&](std::int64_t b) {
    return static_cast<int>(vocab - b * kBlock < kBlock ? vocab - b * kBlock : kBlock);
  };
  for (std::int64_t b = 0; b < blocks; ++b) {
    const std::int64_t at = b * kBlock;
    block_sums(s + at, t + at, length(b), exp, w.blocks, b, w.exp_s + at, w.exp_t + at);
  }
  const RowSums r = join_blocks(w.blocks, blocks, exp);
  if (r.masked) {
    *loss = 0;
    if (g != nullptr) fill_zero(g, vocab);
    return;
  }
  const double kl = r.dot / (temperature * r.z_t) + std::log1p(r.excess / r.z_t);
  *loss = static_cast<float>((kl < 0 ? 0 : kl) * temperature * temperature * weight);
  if (g == nullptr) return;
  const double scale_s = weight * temperature / r.z_s, scale_t = weight * temperature / r.z_t;
  for (std::int64_t b = 0; b < blocks; ++b) {
    const Vec a = set1(static_cast<float>(scale_s * w.blocks.factor_s[b]));
    const Vec c = set1(static_cast<float>(scale_t * w.blocks.factor_t[b]));
    const std::int64_t at = b * kBlock;
    weighted_difference<kStream>(g + at, w.exp_s + at, w.exp_t + at, length(b), a, c);
  }
}

}  // namespace compressc::COMPRESSC_ISA
