// What each instruction set offers: one table of functions, filled by the sources compiled for it.
#pragma once

#include "compressc/kernels.h"

namespace compressc {

// Rows of x that go through lowrank_linear together.
struct RowBlock {
  std::int64_t first;
  int rows;
};

// The parts of lowrank_linear, for one type: `prepare` a block of rows; then every row of v, in any
// order and division into strips; then every row of u. `memory` keeps what one part leaves the next.
struct LowRankKernel {
  int strip;                                 // threads divide v and u at multiples of as many rows
  int (*block)(std::int64_t rows);           // of as many left, how many are worth taking together
  std::int64_t (*memory)(const LowRankLinear&);  // floats
  void (*prepare)(const LowRankLinear&, RowBlock, float* memory);
  void (*thin)(const LowRankLinear&, RowBlock, float* memory, std::int64_t begin, std::int64_t end);
  void (*out)(const LowRankLinear&, RowBlock, float* memory, std::int64_t begin, std::int64_t end);
};

struct Isa {
  const char* name;
  void (*softmax_kl_rows)(const SoftmaxKl&, std::int64_t begin, std::int64_t end, float* scratch);
  std::int64_t (*softmax_kl_scratch)(std::int64_t vocab);  // floats
  void (*topk_kl_rows)(const TopkKl&, std::int64_t begin, std::int64_t end, float* scratch);
  std::int64_t (*topk_kl_scratch)(std::int64_t vocab, std::int64_t k);
  void (*scale_rows)(void* data, DType type, const float* scale, std::int64_t begin,
                     std::int64_t end, std::int64_t columns);
  void (*int8_linear_rows)(const Int8Linear&, std::int64_t begin, std::int64_t end);
  const LowRankKernel& lowrank;  // f32
};

const Isa& isa_portable();
#if defined(COMPRESSC_X86)
const Isa& isa_avx2();
const Isa& isa_avx512();
namespace avx512_bf16 {  // defined where COMPRESSC_AVX512_BF16 is
const LowRankKernel& lowrank_kernel();  // bf16
}
#endif

}  // namespace compressc
