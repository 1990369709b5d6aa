// KL(p || q) where of the teacher only k logits are known and the probability of the rest together.
//
// The rest is one bucket on both sides, so the loss is the KL of k + 1 events, a lower bound of the
// full one. With Q the student's mass outside the k and tail the teacher's, its gradient is T times
//   q_i - p_i among the k,  q_i (1 - tail / Q) outside.
#pragma once

#include "compressc/softmax_kl.h"
#include "compressc/softmax_kl_ce.h"

namespace compressc::COMPRESSC_ISA {

// Exponentials of the student's row into scratch, relative to its maximum m; returns their sum.
template <typename S>
inline double student_sums(const S* s, std::int64_t vocab, const Exp& exp, float* e, float& m) {
  constexpr int W = Vec::width;
  Vec high = set1(-INFINITY);
  std::int64_t i = 0;
  for (; i + W <= vocab; i += W) high = max(load(s + i), high);
  const int left = static_cast<int>(vocab - i);
  if (left > 0) high = max(load_partial(s + i, left, -INFINITY), high);
  m = reduce_max(high);
  const Vec shift = set1(finite_or_zero(m));
  double z = 0;
  for (std::int64_t at = 0; at < vocab; at += kRun * W) {
    Vec run = set1(0);
    for (i = at; i < vocab && i < at + kRun * W; i += W) {
      const int lanes = static_cast<int>(vocab - i < W ? vocab - i : W);
      const Vec x = exp(sub(lanes == W ? load(s + i) : load_partial(s + i, lanes, -INFINITY), shift));
      store(e + i, x);
      run = add(run, x);
    }
    z += reduce_add(run);
  }
  return z;
}

struct TopkRow {
  const float* values;
  const std::int64_t* indices;
  std::int64_t k;
  double tail;
};

// The loss, and p of the k in `p` (room for 2 k); `known` is the student's sum over the k, `rest` over all others.
template <typename S>
inline double topk_loss(const S* s, const TopkRow& row, float m, double temperature, double known,
                        double rest, double* p) {
  double top = -INFINITY, z = 0, loss = 0;
  for (std::int64_t j = 0; j < row.k; ++j) top = row.values[j] > top ? row.values[j] : top;
  for (std::int64_t j = 0; j < row.k; ++j) {
    p[j] = std::exp((row.values[j] - top) / temperature);
    z += p[j];
  }
  const double log_z_s = std::log(known + rest);
  for (std::int64_t j = 0; j < row.k; ++j) {
    p[j] *= (1 - row.tail) / z;
    if (!(p[j] > 0)) continue;
    const double log_q = (static_cast<double>(value_of(s + row.indices[j])) - m) / temperature;
    loss += p[j] * (std::log(p[j]) - (log_q - log_z_s));
  }
  if (row.tail > 0) loss += row.tail * (std::log(row.tail) - (std::log(rest) - log_z_s));
  return loss != loss || loss > 0 ? loss : 0;
}

template <typename S>
inline void topk_row(const S* s, const TopkRow& row, S* g, float* loss, const RowTask& task,
                     float* e, double* p) {
  double* const q = p + row.k;  // the student's exponentials of the k: `g` may overwrite `s`
  float m;
  const double z = student_sums(s, task.vocab, Exp(task.temperature), e, m);
  bool masked = (m == -INFINITY && z == z) || row.k == 0;
  double known = 0;
  bool any = false;
  for (std::int64_t j = 0; j < row.k; ++j) {
    q[j] = e[row.indices[j]];
    known += q[j];
    e[row.indices[j]] = 0;  // so that what is left sums to `rest` without a difference
    any = any || !(row.values[j] == -INFINITY);
  }
  masked = masked || !any;
  if (masked) {
    *loss = 0;
    if (g != nullptr) fill_zero(g, task.vocab);
    return;
  }
  double rest = z - known;
  if (rest < 1e-2 * z) {  // the difference has lost its digits
    rest = 0;
    for (std::int64_t i = 0; i < task.vocab; ++i) rest += e[i];
  }
  const double scale = static_cast<double>(task.weight) * task.temperature;
  const double kl = topk_loss(s, row, m, task.temperature, known, rest, p);
  *loss = static_cast<float>(scale * task.temperature * kl);
  if (g == nullptr) return;
  // Without mass outside there is nothing to pull there: its logits are -inf, or far below.
  const double outside = rest > 0 ? 1 / (known + rest) - row.tail / rest : 0;
  const Vec a = set1(static_cast<float>(scale * outside));
  for (std::int64_t b = 0; b < blocks_of(task.vocab); ++b) {
    const float* const x = e + b * kBlock;
    fill<false>(g + b * kBlock, block_length(task.vocab, b),
                [&](int i, int lanes) { return mul(load_lanes(x + i, lanes), a); });
  }
  for (std::int64_t j = 0; j < row.k; ++j) {
    set_value(g + row.indices[j], static_cast<float>(scale * (q[j] / (known + rest) - p[j])));
  }
}

}  // namespace compressc::COMPRESSC_ISA
