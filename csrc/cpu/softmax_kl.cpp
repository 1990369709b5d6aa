// softmax_kl for one instruction set (COMPRESSC_ISA): scratch laid out, the row's kernel chosen.
#include "compressc/softmax_kl.h"

#include "compressc/short_rows.h"
#include "compressc/softmax_kl_ce.h"
#include "isa_entries.h"
#include "row_loop.h"

namespace compressc::COMPRESSC_ISA {
namespace {

// A gradient beyond a second-level cache is written past all caches: nothing is read in its place first,
// which saves more than its reader loses later (measured with a reader right behind).
constexpr std::int64_t kStreamBytes = std::int64_t{2} << 20;

std::int64_t padded(std::int64_t n) { return (n + 15) / 16 * 16; }

Scratch lay_out(float* p, std::int64_t vocab) {
  const std::int64_t blocks = padded(blocks_of(vocab));
  const auto next = [&p](std::int64_t n) {
    float* const here = p;
    p += n;
    return here;
  };
  Scratch w;
  w.exp_s = next(padded(vocab));
  w.exp_t = next(padded(vocab));
  w.third = next(padded(vocab));
  w.blocks = {next(blocks), next(blocks), next(blocks), next(blocks), next(blocks),
              next(blocks), next(blocks), next(blocks), next(blocks)};
  return w;
}

template <bool kStream>
void forward(const SoftmaxKl& a, std::int64_t begin, std::int64_t end, const Scratch& w) {
  with_types(a.student_type, a.teacher_type, [&](auto s, auto t) {
    using S = decltype(s);
    using T = decltype(t);
    for_each_row<S, T>(a, begin, end, [&](const S* s, const T* t, S* g, float* loss,
                                          const RowTask& task) {
      if (task.label >= 0) {
        ce_row<kStream>(s, t, g, loss, task, w);
      } else {
        forward_row<kStream>(s, t, g, loss, task, w);
      }
    });
  });
  if (kStream) stream_fence();
}

void all_short_rows(const SoftmaxKl& a, std::int64_t begin, std::int64_t end) {
  const Exp exp(a.temperature);
  with_types(a.student_type, a.teacher_type, [&](auto s, auto t) {
    using S = decltype(s);
    using T = decltype(t);
    for (std::int64_t i = begin; i < end; i += Vec::width) {
      const int rows = static_cast<int>(end - i < Vec::width ? end - i : Vec::width);
      short_rows<S, T>(a, i, rows, exp);
    }
  });
}

}  // namespace

void softmax_kl_rows(const SoftmaxKl& a, std::int64_t begin, std::int64_t end, float* scratch) {
  const bool plain = a.direction == Direction::forward && a.labels == nullptr;
  if (plain && a.vocab > 0 && a.vocab <= kShortVocab) return all_short_rows(a, begin, end);
  const Scratch w = lay_out(scratch, a.vocab);
  const std::int64_t element = a.student_type == DType::f32 ? 4 : 2;
  const bool large = a.rows * a.vocab * element >= kStreamBytes;
  if (a.direction != Direction::forward) {
    divergence_rows(a, begin, end, w);
  } else if (large && a.grad != nullptr && a.grad != a.student) {
    forward<true>(a, begin, end, w);
  } else {
    forward<false>(a, begin, end, w);
  }
}

std::int64_t softmax_kl_scratch(std::int64_t vocab) {
  return 3 * padded(vocab) + Blocks::arrays * padded(blocks_of(vocab));
}

}  // namespace compressc::COMPRESSC_ISA
