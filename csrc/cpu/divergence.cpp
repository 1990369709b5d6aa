// The reverse and Jensen-Shannon directions of softmax_kl for one instruction set.
#include "compressc/divergence.h"

#include "isa_entries.h"
#include "row_loop.h"

namespace compressc::COMPRESSC_ISA {

void divergence_rows(const SoftmaxKl& a, std::int64_t begin, std::int64_t end, const Scratch& w) {
  with_types(a.student_type, a.teacher_type, [&](auto s, auto t) {
    using S = decltype(s);
    using T = decltype(t);
    for_each_row<S, T>(a, begin, end, [&](const S* s, const T* t, S* g, float* loss,
                                          const RowTask& task) {
      if (a.direction == Direction::reverse) {
        divergence_row<Reverse, false>(s, t, g, loss, task, w);
      } else {
        divergence_row<JensenShannon, false>(s, t, g, loss, task, w);
      }
    });
  });
}

}  // namespace compressc::COMPRESSC_ISA
