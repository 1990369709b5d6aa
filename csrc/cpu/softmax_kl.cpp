// The rows of softmax_kl for one instruction set (COMPRESSC_ISA): types resolved, scratch laid out.
#include "compressc/softmax_kl.h"

#include "isa_entries.h"

namespace compressc::COMPRESSC_ISA {
namespace {

// Beyond this a gradient no longer fits a last-level cache: writing past the caches saves reading it.
constexpr std::int64_t kStreamBytes = std::int64_t{16} << 20;

std::int64_t padded(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

Scratch lay_out(float* p, std::int64_t vocab) {
  const std::int64_t exps = padded(vocab, 16), blocks = padded((vocab + kBlock - 1) / kBlock, 16);
  const auto next = [&p](std::int64_t n) {
    float* const here = p;
    p += n;
    return here;
  };
  Scratch w;
  w.exp_s = next(exps);
  w.exp_t = next(exps);
  w.blocks = {next(blocks), next(blocks), next(blocks), next(blocks),
              next(blocks), next(blocks), next(blocks)};
  return w;
}

template <bool kStream, typename S, typename T>
void rows(const SoftmaxKl& a, std::int64_t begin, std::int64_t end, float* scratch) {
  const Scratch w = lay_out(scratch, a.vocab);
  for (std::int64_t i = begin; i < end; ++i) {
    const S* s = static_cast<const S*>(a.student) + i * a.student_stride;
    const T* t = static_cast<const T*>(a.teacher) + i * a.teacher_stride;
    S* g = a.grad == nullptr ? nullptr : static_cast<S*>(a.grad) + i * a.vocab;
    const float weight = a.scale * (a.weight == nullptr ? 1.0f : a.weight[i]);
    if (weight == 0) {
      a.loss[i] = 0;
      if (g != nullptr) fill_zero(g, a.vocab);
    } else {
      softmax_kl_row<kStream>(s, t, g, a.loss + i, a.vocab, a.temperature, weight, w);
    }
  }
  if (kStream) stream_fence();
}

template <typename S, typename T>
void typed(const SoftmaxKl& a, std::int64_t begin, std::int64_t end, float* scratch) {
  const bool large = a.rows * a.vocab * static_cast<std::int64_t>(sizeof(S)) >= kStreamBytes;
  if (a.grad != nullptr && a.grad != a.student && large) {
    rows<true, S, T>(a, begin, end, scratch);
  } else {
    rows<false, S, T>(a, begin, end, scratch);
  }
}

template <typename S>
void with_teacher(const SoftmaxKl& a, std::int64_t begin, std::int64_t end, float* scratch) {
  switch (a.teacher_type) {
    case DType::f32: return typed<S, float>(a, begin, end, scratch);
    case DType::bf16: return typed<S, bf16>(a, begin, end, scratch);
    case DType::f16: return typed<S, f16>(a, begin, end, scratch);
  }
}

}  // namespace

void softmax_kl_rows(const SoftmaxKl& a, std::int64_t begin, std::int64_t end, float* scratch) {
  switch (a.student_type) {
    case DType::f32: return with_teacher<float>(a, begin, end, scratch);
    case DType::bf16: return with_teacher<bf16>(a, begin, end, scratch);
    case DType::f16: return with_teacher<f16>(a, begin, end, scratch);
  }
}

std::int64_t softmax_kl_scratch(std::int64_t vocab) {
  return 2 * padded(vocab, 16) + Blocks::arrays * padded((vocab + kBlock - 1) / kBlock, 16);
}

}  // namespace compressc::COMPRESSC_ISA
