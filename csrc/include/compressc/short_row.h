// KL(p || q) of rows that fit into N registers each. Same arithmetic as softmax_kl.h, but in groups of
// rows, in three phases: within a row each phase waits for the one before, across rows none does, and
// so the processor always has something to do.
#pragma once

#include "compressc/softmax_kl.h"

namespace compressc::COMPRESSC_ISA {

inline constexpr int kShortVectors = 4;
inline constexpr int kGroup = 16;

template <int N, typename S>
inline void load_row(const S* p, int vocab, Vec* x) {
  for (int i = 0; i + 1 < N; ++i) x[i] = load(p + i * Vec::width);
  constexpr int last = (N - 1) * Vec::width;
  x[N - 1] = load_partial(p + last, vocab - last, -INFINITY);
}

template <int N>
struct Group {
  float exp_s[kGroup][N * Vec::width], exp_t[kGroup][N * Vec::width];
  RowSums sums[kGroup];
};

// Phase 1: exponentials and sums. (N - 1) * W < vocab <= N * W.
template <int N, typename S, typename T>
inline void short_sums(const S* s, const T* t, int vocab, const Exp& exp, Group<N>& group, int row) {
  Vec x_s[N], x_t[N];
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
    const Vec d_s = sub(x_s[i], shift_s), d_t = sub(x_t[i], shift_t);
    const Vec e_s = exp(d_s), e_t = exp(d_t);
    store(group.exp_s[row] + i * Vec::width, e_s);
    store(group.exp_t[row] + i * Vec::width, e_t);
    z = add(z, e_t);
    excess = add(excess, sub(e_s, e_t));
    dot = fma_where_positive(e_t, sub(d_t, d_s), dot);
  }
  RowSums& r = group.sums[row];
  r.z_t = reduce_add(z);
  r.excess = reduce_add(excess);
  r.z_s = r.z_t + r.excess;
  r.dot = reduce_add(dot);
  r.masked = (m_s == -INFINITY || m_t == -INFINITY) && r.excess == r.excess;  // NaN must be seen
}

// Rows [first, first + rows) of the problem, rows <= kGroup. A row of weight 0 is as good as masked.
template <int N, typename S, typename T>
inline void short_group(const SoftmaxKl& a, std::int64_t first, int rows, const Exp& exp) {
  Group<N> group;
  const int vocab = static_cast<int>(a.vocab);
  const auto weight = [&](int i) {
    return static_cast<double>(a.scale) * (a.weight == nullptr ? 1.0f : a.weight[first + i]);
  };
  for (int i = 0; i < rows; ++i) {
    group.sums[i].masked = true;
    if (weight(i) == 0) continue;
    short_sums<N>(static_cast<const S*>(a.student) + (first + i) * a.student_stride,
                  static_cast<const T*>(a.teacher) + (first + i) * a.teacher_stride, vocab, exp,
                  group, i);
  }
  float factor_s[kGroup], factor_t[kGroup];
  for (int i = 0; i < rows; ++i) {
    const RowSums& r = group.sums[i];
    const double scale = weight(i) * a.temperature;
    const double loss = r.masked ? 0 : scale * a.temperature * forward_kl(r, a.temperature);
    a.loss[first + i] = static_cast<float>(loss);
    factor_s[i] = static_cast<float>(scale / r.z_s);
    factor_t[i] = static_cast<float>(scale / r.z_t);
  }
  if (a.grad == nullptr) return;
  constexpr int last = (N - 1) * Vec::width;
  for (int i = 0; i < rows; ++i) {
    S* const g = static_cast<S*>(a.grad) + (first + i) * a.vocab;
    if (group.sums[i].masked) {
      fill_zero(g, vocab);
      continue;
    }
    const Vec f_s = set1(factor_s[i]), f_t = set1(factor_t[i]);
    const auto value = [&](int at) {
      return sub(mul(load(group.exp_s[i] + at), f_s), mul(load(group.exp_t[i] + at), f_t));
    };
    for (int at = 0; at < last; at += Vec::width) store(g + at, value(at));
    store_partial(g + last, value(last), vocab - last);
  }
}

}  // namespace compressc::COMPRESSC_ISA
