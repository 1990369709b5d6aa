// KL(p || q) at temperature T mixed with the cross-entropy of the student at temperature 1 and a label,
// from one pass over the logits (Hinton, Vinyals, Dean 2015).
//
// With e_1 the student's exponentials at temperature 1 and y the label, the gradient is
//   kl_share T (e_s / z_s - e_t / z_t)
//     + (1 - kl_share) (e_1 / z_1 - smoothing / V - (1 - smoothing) [i = y])
#pragma once

#include "compressc/softmax_kl.h"

namespace compressc::COMPRESSC_ISA {

// Sum of s - m over the row, for label smoothing.
template <typename S>
inline double sum_below(const S* s, std::int64_t vocab, float m) {
  constexpr int W = Vec::width;
  double sum = 0;
  for (std::int64_t at = 0; at < vocab; at += kRun * W) {
    const int n = static_cast<int>(vocab - at < kRun * W ? vocab - at : kRun * W);
    Vec run = set1(0);
    int i = 0;
    for (; i + W <= n; i += W) run = add(run, sub(load(s + at + i), set1(m)));
    if (i < n) run = add(run, sub(load_partial(s + at + i, n - i, m), set1(m)));
    sum += reduce_add(run);
  }
  return sum;
}

inline float value_of(const float* p) { return *p; }
template <typename S>
inline float value_of(const S* p) {
  float lanes[Vec::width];
  store(lanes, load_partial(p, 1, 0));
  return lanes[0];
}
template <typename S>
inline void set_value(S* p, float x) {
  store_partial(p, set1(x), 1);
}

// The factors of the gradient's terms in one block.
struct CeFactors {
  float s, t, one, uniform;
};

// Where T is 1, exp_at_1 is exp_s: its factor then joins that of exp_s, and no third array is read.
template <bool kStream, bool kThird, typename S>
inline void ce_gradient(S* g, const RowSums& r, const RowTask& task, const Scratch& w) {
  const double soft = static_cast<double>(task.weight) * task.kl_share * task.temperature;
  const double hard = static_cast<double>(task.weight) * (1.0 - task.kl_share);
  for (std::int64_t b = 0; b < blocks_of(task.vocab); ++b) {
    CeFactors f;
    f.s = static_cast<float>(soft / r.z_s * w.blocks.factor_s[b]);
    f.t = static_cast<float>(soft / r.z_t * w.blocks.factor_t[b]);
    f.one = kThird ? static_cast<float>(hard / r.z_1 * w.blocks.factor_1[b]) : 0;
    if (!kThird) f.s += static_cast<float>(hard / r.z_s * w.blocks.factor_s[b]);
    f.uniform = static_cast<float>(hard * task.smoothing / static_cast<double>(task.vocab));
    const Vec a = set1(f.s), c = set1(-f.t), d = set1(f.one), u = set1(-f.uniform);
    const float *const e_s = w.exp_s + b * kBlock, *const e_t = w.exp_t + b * kBlock;
    const float* const e_1 = w.third + b * kBlock;
    fill<kStream>(g + b * kBlock, block_length(task.vocab, b), [&](int i, int lanes) {
      const Vec x = fma(load_lanes(e_t + i, lanes), c, fma(load_lanes(e_s + i, lanes), a, u));
      return kThird ? fma(load_lanes(e_1 + i, lanes), d, x) : x;
    });
    const std::int64_t y = task.label - b * kBlock;  // the label's entry, if it is in this block
    if (y < 0 || y >= kBlock) continue;
    const double at_y = static_cast<double>(e_s[y]) * f.s - static_cast<double>(e_t[y]) * f.t +
                        (kThird ? static_cast<double>(e_1[y]) * f.one : 0) - f.uniform;
    set_value(g + task.label, static_cast<float>(at_y - hard * (1.0 - task.smoothing)));
  }
}

template <bool kStream, typename S, typename T>
inline void ce_row(const S* s, const T* t, S* g, float* loss, const RowTask& task,
                   const Scratch& w) {
  const bool third = task.temperature != 1.0f;
  const RowSums r =
      third ? row_sums<Keep::exp_at_1>(s, t, task, w) : row_sums<Keep::nothing>(s, t, task, w);
  if (r.masked) {
    *loss = 0;
    if (g != nullptr) fill_zero(g, task.vocab);
    return;
  }
  const float m = w.blocks.max_s[blocks_of(task.vocab) - 1];
  const double log_z = std::log(third ? r.z_1 : r.z_s);
  double ce = (1.0 - task.smoothing) * (log_z - (value_of(s + task.label) - m));
  if (task.smoothing > 0) {
    const double mean = sum_below(s, task.vocab, m) / static_cast<double>(task.vocab);
    ce += task.smoothing * (log_z - mean);
  }
  const double t2 = static_cast<double>(task.temperature) * task.temperature;
  const double soft = task.kl_share * t2 * forward_kl(r, task.temperature);
  *loss = static_cast<float>(task.weight * (soft + (1.0 - task.kl_share) * ce));
  if (g == nullptr) return;
  if (third) {
    ce_gradient<kStream, true>(g, r, task, w);
  } else {
    ce_gradient<kStream, false>(g, r, task, w);
  }
}

}  // namespace compressc::COMPRESSC_ISA
