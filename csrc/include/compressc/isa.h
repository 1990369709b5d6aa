// What each instruction set offers: one table of functions, filled by the sources compiled for it.
#pragma once

#include "compressc/kernels.h"

namespace compressc {

struct Isa {
  const char* name;
  void (*softmax_kl_rows)(const SoftmaxKl&, std::int64_t begin, std::int64_t end, float* scratch);
  std::int64_t (*softmax_kl_scratch)(std::int64_t vocab);  // floats
  void (*topk_kl_rows)(const TopkKl&, std::int64_t begin, std::int64_t end, float* scratch);
  std::int64_t (*topk_kl_scratch)(std::int64_t vocab, std::int64_t k);
  void (*scale_rows)(void* data, DType type, const float* scale, std::int64_t begin,
                     std::int64_t end, std::int64_t columns);
  void (*int8_linear_rows)(const Int8Linear&, std::int64_t begin, std::int64_t end);
};

const Isa& isa_portable();
#if defined(COMPRESSC_X86)
const Isa& isa_avx2();
const Isa& isa_avx512();
#endif

}  // namespace compressc
