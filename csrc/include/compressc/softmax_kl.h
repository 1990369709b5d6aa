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

#include <cmath>
#include <cstring>

#include "compressc/exp.h"
#include "compressc/kernels.h"

namespace compressc::COMPRESSC_ISA {

inline constexpr int kBlock = 1024;  // two blocks of logits and two of exponentials: 16 KiB
inline constexpr int kRun = 8;       // vectors summed before a sum joins the others: a long sum
                                     // would round away what is small in it

// What is kept of each block, as arrays over the blocks of a row. `factor` takes a block's
// exponentials to the row's maximum. `excess` is z_s - z_t.
struct Blocks {
  float *max_s, *max_t, *z_t, *excess, *dot, *factor_s, *factor_t;
  float *z_1, *factor_1;  // of the student at temperature 1
  static constexpr int arrays = 9;
};

// One row's working space, one thread's own.
struct Scratch {
  float *exp_s, *exp_t;  // exponentials, relative to their block's maximum
  float* third;          // as `Keep` says
  Blocks blocks;
};

// What the pass over the logits leaves in Scratch::third.
enum class Keep {
  nothing,
  gap,       // (s - m_s) - (t - m_t), for divergences whose slope needs it
  exp_at_1,  // the student's exponentials at temperature 1, for a cross-entropy
};

// Sums over a row, relative to the row's maxima; `masked` where either side has no finite logit.
struct RowSums {
  double z_s, z_t, excess, dot, z_1;
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

// Fills the scratch of block b (whole vectors; lanes past n get an exponential of 0) and its sums.
template <Keep kKeep, typename S, typename T>
inline void block_sums(const S* s, const T* t, int n, const Exp& exp, const Scratch& w,
                       std::int64_t b) {
  constexpr int W = Vec::width;
  const Blocks& k = w.blocks;
  float *const exp_s = w.exp_s + b * kBlock, *const exp_t = w.exp_t + b * kBlock;
  float* const third = w.third + b * kBlock;
  const Exp exp_at_1(1.0f);
  k.max_s[b] = b == 0 ? -INFINITY : k.max_s[b - 1];
  k.max_t[b] = b == 0 ? -INFINITY : k.max_t[b - 1];
  block_maxima(s, t, n, k.max_s[b], k.max_t[b]);
  const Vec shift_s = set1(finite_or_zero(k.max_s[b])), shift_t = set1(finite_or_zero(k.max_t[b]));
  const Vec zero = set1(0);
  Vec z_t = zero, excess = zero, dot = zero, z_1 = zero;
  for (int from = 0; from < n; from += kRun * W) {
    const int to = n - from < kRun * W ? n : from + kRun * W;
    Vec run_z = zero, run_excess = zero, run_dot = zero, run_1 = zero;
    const auto step = [&](Vec raw_s, Vec raw_t, int i) {
      // The next block (or row) comes from memory while this one is computed. Past the end is harmless.
      __builtin_prefetch(s + i + kBlock);
      __builtin_prefetch(t + i + kBlock);
      const Vec x_s = sub(raw_s, shift_s), x_t = sub(raw_t, shift_t);
      const Vec e_s = exp(x_s), e_t = exp(x_t);
      store(exp_s + i, e_s);
      store(exp_t + i, e_t);
      run_z = add(run_z, e_t);
      run_excess = add(run_excess, sub(e_s, e_t));
      run_dot = fma_where_positive(e_t, sub(x_t, x_s), run_dot);
      if constexpr (kKeep == Keep::gap) store(third + i, sub(x_s, x_t));
      if constexpr (kKeep == Keep::exp_at_1) {
        const Vec e_1 = exp_at_1(x_s);
        store(third + i, e_1);
        run_1 = add(run_1, e_1);
      }
    };
    int i = from;
    for (; i + W <= to; i += W) step(load(s + i), load(t + i), i);
    const int left = to - i;
    if (left > 0) step(load_partial(s + i, left, -INFINITY), load_partial(t + i, left, -INFINITY), i);
    z_t = add(z_t, run_z);
    excess = add(excess, run_excess);
    dot = add(dot, run_dot);
    z_1 = add(z_1, run_1);
  }
  k.z_t[b] = reduce_add(z_t);
  k.excess[b] = reduce_add(excess);
  k.dot[b] = reduce_add(dot);
  k.z_1[b] = reduce_add(z_1);
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

// `with_1`: the blocks hold sums at temperature 1 as well.
inline RowSums join_blocks(const Blocks& k, std::int64_t blocks, const Exp& exp, bool with_1) {
  RowSums r{0, 0, 0, 0, 0, true};
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
  if (with_1) {
    block_factors(k.max_s, k.factor_1, blocks, Exp(1.0f));
    for (std::int64_t b = 0; b < blocks; ++b) {
      r.z_1 += static_cast<double>(k.factor_1[b]) * k.z_1[b];
    }
  }
  // A NaN anywhere must come out, so only true zeros count as masked.
  r.masked = (k.max_s[blocks - 1] == -INFINITY && r.z_s == r.z_s) ||
             (k.max_t[blocks - 1] == -INFINITY && r.z_t == r.z_t);
  return r;
}

// g[i] = value(i, lanes) over n elements; `value` loads `lanes` of its inputs, or all for W.
template <bool kStream, typename S, typename Value>
inline void fill(S* g, int n, const Value& value) {
  constexpr int W = Vec::width;
  int i = 0;
  if constexpr (kStream) {
    const auto past = reinterpret_cast<std::uintptr_t>(g) % (W * sizeof(S)) / sizeof(S);
    if (past != 0) {
      i = W - static_cast<int>(past) < n ? W - static_cast<int>(past) : n;
      store_partial(g, value(0, i), i);
    }
    for (; i + W <= n; i += W) stream(g + i, value(i, W));
  } else {
    for (; i + W <= n; i += W) store(g + i, value(i, W));
  }
  if (i < n) store_partial(g + i, value(i, n - i), n - i);
}

inline Vec load_lanes(const float* p, int lanes) {
  return lanes == Vec::width ? load(p) : load_partial(p, lanes, 0);
}

template <typename S>
inline void fill_zero(S* g, std::int64_t n) {
  std::memset(g, 0, static_cast<std::size_t>(n) * sizeof(S));
}

inline std::int64_t blocks_of(std::int64_t vocab) { return (vocab + kBlock - 1) / kBlock; }
inline int block_length(std::int64_t vocab, std::int64_t b) {
  return static_cast<int>(vocab - b * kBlock < kBlock ? vocab - b * kBlock : kBlock);
}

// What a row asks for beside its logits. `weight` includes the scale.
struct RowTask {
  std::int64_t vocab;
  float temperature, weight;
  std::int64_t label;  // negative: none, and then kl_share and smoothing mean nothing
  float kl_share, smoothing;
};

template <Keep kKeep, typename S, typename T>
inline RowSums row_sums(const S* s, const T* t, const RowTask& task, const Scratch& w) {
  const Exp exp(task.temperature);
  const std::int64_t blocks = blocks_of(task.vocab);
  for (std::int64_t b = 0; b < blocks; ++b) {
    block_sums<kKeep>(s + b * kBlock, t + b * kBlock, block_length(task.vocab, b), exp, w, b);
  }
  return join_blocks(w.blocks, blocks, exp, kKeep == Keep::exp_at_1);
}

// log(1 + u) for u >= 1e-300 - 1 with an error of 4e-10 of it, or NaN: without a branch, and several
// times quicker than the library's. As k log 2 + 2 atanh(s) with 2^k m = 1 + u, m in [0.75, 1.5) and
// s = (m - 1) / (m + 1); where k is 0 the difference is u itself, before 1 + u was rounded.
inline double quick_log1p(double u) {
  const double y = 1.0 + u;
  std::int64_t bits;
  std::memcpy(&bits, &y, sizeof bits);
  const std::int64_t k = (bits - 0x3fe8000000000000) >> 52;
  bits -= k * (std::int64_t{1} << 52);  // shifting a negative number is undefined
  double m;
  std::memcpy(&m, &bits, sizeof m);
  const double above = k == 0 ? u : m - 1.0;
  const double s = above / (2.0 + above), q = s * s;
  const double p = 1.0 + q * (1.0 / 3 + q * (1.0 / 5 + q * (1.0 / 7 + q * (1.0 / 9 + q / 11))));
  return static_cast<double>(k) * 0.69314718055994531 + 2.0 * s * p + (u - u);  // NaN or inf: NaN
}

inline double forward_kl(const RowSums& r, double temperature) {
  const double inverse = 1.0 / r.z_t;
  const double kl = r.dot * inverse / temperature + quick_log1p(r.excess * inverse);
  return kl < 0 ? 0 : kl;
}

// KL(p || q) alone.
template <bool kStream, typename S, typename T>
inline void forward_row(const S* s, const T* t, S* g, float* loss, const RowTask& task,
                        const Scratch& w) {
  const RowSums r = row_sums<Keep::nothing>(s, t, task, w);
  if (r.masked) {
    *loss = 0;
    if (g != nullptr) fill_zero(g, task.vocab);
    return;
  }
  const double scale = static_cast<double>(task.weight) * task.temperature;
  *loss = static_cast<float>(scale * task.temperature * forward_kl(r, task.temperature));
  if (g == nullptr) return;
  for (std::int64_t b = 0; b < blocks_of(task.vocab); ++b) {
    const Vec a = set1(static_cast<float>(scale / r.z_s * w.blocks.factor_s[b]));
    const Vec c = set1(static_cast<float>(scale / r.z_t * w.blocks.factor_t[b]));
    const float *const e_s = w.exp_s + b * kBlock, *const e_t = w.exp_t + b * kBlock;
    fill<kStream>(g + b * kBlock, block_length(task.vocab, b), [&](int i, int lanes) {
      return sub(mul(load_lanes(e_s + i, lanes), a), mul(load_lanes(e_t + i, lanes), c));
    });
  }
}

}  // namespace compressc::COMPRESSC_ISA
