// softmax_kl for one row: one pass over the logits, one exponential per logit, no softmax in memory.
//
// A row is cut into blocks that stay in the first-level cache. Each block takes its own maximum and
// leaves its exponentials in scratch; when the row's maximum is known, block b only needs the factor
// 2^((m_b - m) / T). The loss comes from max-shifted logits, d = (t - m_t) - (s - m_s):
//   KL = sum(e_t d) / (T z_t) + log(z_s / z_t),  gradient of T^2 KL = T (e_s / z_s - e_t / z_t)
// so that an offset common to all logits cancels before anything is rounded.
#pragma once

#include "compressc/kernels.h"
#include "compressc/vec.h"

namespace compressc::COMPRESSC_ISA {

inline constexpr int kBlock = 1024;  // two blocks of logits and two of exponentials: 16 KiB

// One row's working space, `vocab` rounded up to whole blocks, one thread's own.
struct Scratch {
  float *exp_s, *exp_t;        // exponentials, relative to their block's maximum
  float *shift_s, *shift_t;    // per block: its maximum, 0 where that is -inf
  float *factor_s, *factor_t;  // per block: from the block's maximum to the row's
};

struct BlockSums {
  float z_s, z_t, dot;
};

struct RowSums {
  double z_s, z_t, dot;  // relative to the row's maxima
};

inline float finite_or_zero(float m) { return m == -INFINITY ? 0.0f : m; }

template <typename S, typename T>
inline BlockSums block(const S* s, const T* t, int n, float log2e_over_t, const Scratch& w,
                       std::int64_t at, std::int64_t index) {
  constexpr int W = Vec::width;
  const Vec lowest = set1(-INFINITY);
  Vec max_s = lowest, max_t = lowest, max_s2 = lowest, max_t2 = lowest;
  int i = 0;
  for (; i + 2 * W <= n; i += 2 * W) {
    max_s = max(load(s + i), max_s);
    max_t = max(load(t + i), max_t);
    max_s2 = max(load(s + i + W), max_s2);
    max_t2 = max(load(t + i + W), max_t2);
  }
  for (; i < n; i += W) {
    max_s = max(load_partial(s + i, n - i < W ? n - i : W, -INFINITY), max_s);
    max_t = max(load_partial(t + i, n - i < W ? n - i : W, -INFINITY), max_t);
  }
  const float m_s = finite_or_zero(reduce_max(max(max_s, max_s2)));
  const float m_t = finite_or_zero(reduce_max(max(max_t, max_t2)));
  w.shift_s[index] = m_s;
  w.shift_t[index] = m_t;

  const Vec shift_s = set1(m_s), shift_t = set1(m_t), scale = set1(log2e_over_t);
  Vec z_s = set1(0), z_t = set1(0), dot = set1(0);
  const auto step = [&](Vec raw_s, Vec raw_t, int j) {
    const Vec x_s = sub(raw_s, shift_s), x_t = sub(raw_t, shift_t);
    const Vec e_s = exp2_negative(mul(x_s, scale)), e_t = exp2_negative(mul(x_t, scale));
    store(w.exp_s + at + j, e_s);
    store(w.exp_t + at + j, e_t);
    z_s = add(z_s, e_s);
    z_t = add(z_t, e_t);
    dot = fma_where_positive(e_t, sub(x_t, x_s), dot);
  };
  for (i = 0; i + W <= n; i += W) step(load(s + i), load(t + i), i);
  if (i < n) step(load_partial(s + i, n - i, -INFINITY), load_partial(t + i, n - i, -INFINITY), i);
  return {reduce_add(z_s), reduce_add(z_t), reduce_add(dot)};
}

// Joins a block to the row so far: an online softmax over blocks, in double.
struct Online {
  double max_s = -INFINITY, max_t = -INFINITY, z_s = 0, z_t = 0, dot = 0;

  // `dot` is relative to (max_t, max_s): moving both shifts every d by the same amount.
  void add(const BlockSums& b, float m_s, float m_t, double log2e_over_t) {
    move(b.z_s > 0 && m_s > max_s ? m_s : max_s, b.z_t > 0 && m_t > max_t ? m_t : max_t,
         log2e_over_t);
    // A NaN sum must reach the row's; a sum of zero has no maximum to be compared with.
    if (b.z_s != 0) z_s += b.z_s * (b.z_s > 0 ? std::exp2((m_s - max_s) * log2e_over_t) : 1);
    if (b.z_t == 0) return;
    const double f = b.z_t > 0 ? std::exp2((m_t - max_t) * log2e_over_t) : 1;
    z_t += b.z_t * f;
    if (f > 0) dot += f * (b.dot + b.z_t * ((m_t - max_t) - (m_s - base_s())));
  }

 private:
  double base_s() const { return max_s == -INFINITY ? 0 : max_s; }

  void move(double to_s, double to_t, double log2e_over_t) {
    if (to_s == max_s && to_t == max_t) return;
    const double from_s = base_s();
    const double down_t = z_t == 0 ? 0 : std::exp2((max_t - to_t) * log2e_over_t);
    if (z_s != 0) z_s *= std::exp2((max_s - to_s) * log2e_over_t);
    const double old_t = max_t;
    max_s = to_s;
    max_t = to_t;
    if (z_t == 0) return;
    dot = down_t > 0 ? down_t * (dot + z_t * ((old_t - max_t) - (from_s - base_s()))) : 0;
    z_t *= down_t;
  }
};

}  // namespace compressc::COMPRESSC_ISA
