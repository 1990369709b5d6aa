// topk_kl for one instruction set.
#include "compressc/topk_kl.h"

#include "isa_entries.h"
#include "row_loop.h"

namespace compressc::COMPRESSC_ISA {

void topk_kl_rows(const TopkKl& a, std::int64_t begin, std::int64_t end, float* scratch) {
  double* const p = reinterpret_cast<double*>(scratch);  // first, for its alignment
  float* const e = scratch + 4 * a.k;
  with_type(a.student_type, [&](auto tag) {
    using S = decltype(tag);
    for (std::int64_t i = begin; i < end; ++i) {
      const S* s = static_cast<const S*>(a.student) + i * a.student_stride;
      S* g = a.grad == nullptr ? nullptr : static_cast<S*>(a.grad) + i * a.vocab;
      RowTask task{};
      task.vocab = a.vocab;
      task.temperature = a.temperature;
      task.weight = a.scale * (a.weight == nullptr ? 1.0f : a.weight[i]);
      if (task.weight == 0) {
        a.loss[i] = 0;
        if (g != nullptr) fill_zero(g, a.vocab);
        continue;
      }
      const TopkRow row{a.values + i * a.k, a.indices + i * a.k, a.k, a.tail[i]};
      topk_row(s, row, g, a.loss + i, task, e, p);
    }
  });
}

std::int64_t topk_kl_scratch(std::int64_t vocab, std::int64_t k) {
  return 4 * k + (vocab + 15) / 16 * 16;
}

}  // namespace compressc::COMPRESSC_ISA
