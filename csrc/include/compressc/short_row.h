// KL(p || q) of a row that fits into N registers: no scratch, no loops. Same arithmetic as softmax_kl.h.
#pragma once

#include "compressc/softmax_kl.h"

namespace compressc::COMPRESSC_ISA {

inline constexpr int kShortVectors = 4;

template <int N, typename S>
inline void load_row(const S* p, int vocab, Vec* x) {
  for (int i = 0; i + 1 < N; ++i) x[i] = load(p + i * Vec::width);
  constexpr int last = (N - 1) * Vec::width;
  x[N - 1] = load_partial(p + last, vocab - last, -INFINITY);
}

// (N - 1) * W < vocab <= N * W.
template <int N, typename S, typename T>
inline void short_row(const S* s, const T* t, S* g, float* loss, const RowTask& task,
                      const Exp& exp) {
  const int vocab = static_cast<int>(task.vocab);
  Vec x_s[N], x_t[N], e_s[N], e_t[N];
  load_row<N>(s, vocab, x_s);
  load_row<N>(t, vocab, x_t);
  Vec high_s = x_s[0], high_t = x_t[0];
  for (int i = 1; i < N; ++i) {
    high_s = max(x_s[i], high_s);
    high_t = max(x_t[i], high_t);
  }
  const float m_s = reduce_max(high_s), m_t = reduce_max(high_t);
  const Vec shift_s = set1(finite_or_zero(m_s)), shift_t = set1(finite_or_zero(m_t));
  Vec z = set1(0), excess = z, dot = z;
  for (int i = 0; i < N; ++i) {
    x_s[i] = sub(x_s[i], shift_s);
    x_t[i] = sub(x_t[i], shift_t);
    e_s[i] = exp(x_s[i]);
    e_t[i] = exp(x_t[i]);
    z = add(z, e_t[i]);
    excess = add(excess, sub(e_s[i], e_t[i]));
    dot = fma_where_positive(e_t[i], sub(x_t[i], x_s[i]), dot);
  }
  RowSums r{};
  r.z_t = reduce_add(z);
  r.excess = reduce_add(excess);
  r.z_s = r.z_t + r.excess;
  r.dot = reduce_add(dot);
  if ((m_s == -INFINITY || m_t == -INFINITY) && r.excess == r.excess) {  // masked, and no NaN
    *loss = 0;
    if (g != nullptr) fill_zero(g, vocab);
    return;
  }
  const double scale = static_cast<double>(task.weight) * task.temperature;
  *loss = static_cast<float>(scale * task.temperature * forward_kl(r, task.temperature));
  if (g == nullptr) return;
  const Vec a = set1(static_cast<float>(scale / r.z_s)), c = set1(static_cast<float>(scale / r.z_t));
  constexpr int last = N - 1;
  for (int i = 0; i < last; ++i) store(g + i * Vec::width, sub(mul(e_s[i], a), mul(e_t[i], c)));
  store_partial(g + last * Vec::width, sub(mul(e_s[last], a), mul(e_t[last], c)),
                vocab - last * Vec::width);
}

}  // namespace compressc::COMPRESSC_ISA
