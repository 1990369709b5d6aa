// Walks the rows of a loss: resolves types, skips rows of weight 0, hands each other row to a kernel.
#pragma once

#include "compressc/softmax_kl.h"

namespace compressc::COMPRESSC_ISA {

// Calls f(S{}) or f(S{}, T{}) with the types that tags stand for.
template <typename F>
void with_type(DType type, const F& f) {
  switch (type) {
    case DType::f32: return f(float{});
    case DType::bf16: return f(bf16{});
    case DType::f16: return f(f16{});
  }
}

template <typename F>
void with_types(DType student, DType teacher, const F& f) {
  with_type(student, [&](auto s) { with_type(teacher, [&](auto t) { f(s, t); }); });
}

// kernel(student, teacher, gradient or null, loss, task) for each row that counts.
template <typename S, typename T, typename Kernel>
void for_each_row(const SoftmaxKl& a, std::int64_t begin, std::int64_t end, const Kernel& kernel) {
  for (std::int64_t i = begin; i < end; ++i) {
    const S* s = static_cast<const S*>(a.student) + i * a.student_stride;
    const T* t = static_cast<const T*>(a.teacher) + i * a.teacher_stride;
    S* g = a.grad == nullptr ? nullptr : static_cast<S*>(a.grad) + i * a.vocab;
    RowTask task;
    task.vocab = a.vocab;
    task.temperature = a.temperature;
    task.weight = a.scale * (a.weight == nullptr ? 1.0f : a.weight[i]);
    task.label = a.labels == nullptr ? -1 : a.labels[i];
    task.kl_share = a.kl_share;
    task.smoothing = a.smoothing;
    if (a.labels != nullptr && task.label < 0) task.weight *= a.kl_share;  // the divergence's share
    if (task.weight == 0) {
      a.loss[i] = 0;
      if (g != nullptr) fill_zero(g, a.vocab);
    } else {
      kernel(s, t, g, a.loss + i, task);
    }
  }
}

}  // namespace compressc::COMPRESSC_ISA
