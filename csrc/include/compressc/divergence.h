// The other directions: KL(q || p) and Jensen-Shannon, p the teacher's and q the student's softmax.
//
// Both are sums of a function of p, q and the log ratio l = log q - log p, and the gradient of either
// with respect to the student's logits is q (slope - sum(q slope)) / T. One pass over the logits, then
// two over scratch.
#pragma once

#include "compressc/softmax_kl.h"

namespace compressc::COMPRESSC_ISA {

struct TermAndSlope {
  Vec term, slope;
};

// KL(q || p): term q l, slope l.
struct Reverse {
  static TermAndSlope at(Vec, Vec q, Vec l) { return {fma_where_positive(q, l, set1(0)), l}; }
};

// log(1 + z) for z in [0, 1]: 2 atanh(z / (2 + z)) by its series, error below 1e-8.
inline Vec log1p_unit(Vec z) {
  const Vec r = div(z, add(z, set1(2.0f))), r2 = mul(r, r);
  Vec p = set1(2.0f / 15);
  for (int odd = 13; odd > 0; odd -= 2) p = fma(p, r2, set1(2.0f / static_cast<float>(odd)));
  return mul(p, r);
}

// With m = (p + q) / 2: log(q / m) = log 2 - log(1 + e^-l) and log(p / m) = log 2 - log(1 + e^l);
// term (p log(p / m) + q log(q / m)) / 2, slope log(q / m) / 2.
struct JensenShannon {
  static TermAndSlope at(Vec p, Vec q, Vec l) {
    const Vec zero = set1(0), log2 = set1(0.693147181f), half = set1(0.5f);
    const Vec minus = sub(zero, l), away = max(l, minus);  // |l|
    const Vec bend = log1p_unit(Exp(1.0f)(sub(zero, away)));
    const Vec of_q = sub(log2, add(max(minus, zero), bend));
    const Vec of_p = sub(log2, add(max(l, zero), bend));
    const Vec term = fma_where_positive(p, of_p, fma_where_positive(q, of_q, zero));
    return {mul(term, half), mul(of_q, half)};
  }
};

// Per block: from exponentials to p and q, and the constant of l.
struct ToRow {
  Vec p, q, shift, inverse_t;
};

inline ToRow to_row(const RowSums& r, const RowTask& task, const Blocks& k, std::int64_t b) {
  const std::int64_t last = blocks_of(task.vocab) - 1;
  const double moved = (static_cast<double>(finite_or_zero(k.max_s[b])) - k.max_s[last]) -
                       (static_cast<double>(finite_or_zero(k.max_t[b])) - k.max_t[last]);
  const double shift = moved / task.temperature - std::log1p(r.excess / r.z_t);
  return {set1(static_cast<float>(k.factor_t[b] / r.z_t)),
          set1(static_cast<float>(k.factor_s[b] / r.z_s)), set1(static_cast<float>(shift)),
          set1(1.0f / task.temperature)};
}

// The sums of the terms and of q * slope; leaves the slopes where the gaps were.
template <typename Divergence>
inline void sum_terms(const RowSums& r, const RowTask& task, const Scratch& w, double& terms,
                      double& slopes) {
  constexpr int W = Vec::width;
  for (std::int64_t b = 0; b < blocks_of(task.vocab); ++b) {
    const ToRow f = to_row(r, task, w.blocks, b);
    for (int from = 0; from < block_length(task.vocab, b); from += kRun * W) {
      Vec run_terms = set1(0), run_slopes = run_terms;
      const int end = block_length(task.vocab, b);
      for (int i = from; i < end && i < from + kRun * W; i += W) {
        const std::int64_t at = b * kBlock + i;
        const Vec p = mul(load(w.exp_t + at), f.p), q = mul(load(w.exp_s + at), f.q);
        const Vec l = fma(load(w.third + at), f.inverse_t, f.shift);
        const TermAndSlope x = Divergence::at(p, q, l);
        store(w.third + at, x.slope);
        run_terms = add(run_terms, x.term);
        run_slopes = fma_where_positive(q, x.slope, run_slopes);
      }
      terms += reduce_add(run_terms);
      slopes += reduce_add(run_slopes);
    }
  }
}

template <typename Divergence, bool kStream, typename S, typename T>
inline void divergence_row(const S* s, const T* t, S* g, float* loss, const RowTask& task,
                           const Scratch& w) {
  const RowSums r = row_sums<Keep::gap>(s, t, task, w);
  double terms = 0, slopes = 0;
  if (!r.masked) {
    sum_terms<Divergence>(r, task, w, terms, slopes);
    if (r.z_s != r.z_s || r.z_t != r.z_t) terms = NAN;  // guarded sums step over a NaN
  }
  const double scale = static_cast<double>(task.weight) * task.temperature;
  *loss = static_cast<float>(scale * task.temperature * (terms < 0 ? 0 : terms));
  if (g == nullptr) return;
  if (r.masked || terms == INFINITY) return fill_zero(g, task.vocab);  // no finite slope either
  const Vec mean = set1(static_cast<float>(slopes));
  for (std::int64_t b = 0; b < blocks_of(task.vocab); ++b) {
    const Vec a = set1(static_cast<float>(scale / r.z_s * w.blocks.factor_s[b]));
    const float *const e_s = w.exp_s + b * kBlock, *const slope = w.third + b * kBlock;
    fill<kStream>(g + b * kBlock, block_length(task.vocab, b), [&](int i, int lanes) {
      const Vec q = mul(load_lanes(e_s + i, lanes), a);
      return fma_where_positive(q, sub(load_lanes(slope + i, lanes), mean), set1(0));
    });
  }
}

}  // namespace compressc::COMPRESSC_ISA
