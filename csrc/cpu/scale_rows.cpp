// scale_rows for one instruction set.
#include "compressc/vec.h"
#include "isa_entries.h"

namespace compressc::COMPRESSC_ISA {
namespace {

template <typename T>
void scale(T* data, const float* factor, std::int64_t begin, std::int64_t end,
           std::int64_t columns) {
  constexpr int W = Vec::width;
  for (std::int64_t row = begin; row < end; ++row) {
    T* p = data + row * columns;
    const Vec f = set1(factor[row]);
    std::int64_t i = 0;
    for (; i + W <= columns; i += W) store(p + i, mul(load(p + i), f));
    const int left = static_cast<int>(columns - i);
    if (left > 0) store_partial(p + i, mul(load_partial(p + i, left, 0), f), left);
  }
}

}  // namespace

void scale_rows(void* data, DType type, const float* factor, std::int64_t begin, std::int64_t end,
                std::int64_t columns) {
  switch (type) {
    case DType::f32: return scale(static_cast<float*>(data), factor, begin, end, columns);
    case DType::bf16: return scale(static_cast<bf16*>(data), factor, begin, end, columns);
    case DType::f16: return scale(static_cast<f16*>(data), factor, begin, end, columns);
  }
}

}  // namespace compressc::COMPRESSC_ISA
