// The GPU kernels as C functions: each starts its kernel on a stream and returns a cudaError_t, 0 for
// success, without waiting. Pointers are the device's. The structures are those of the CPU kernels.
#pragma once

#include "compressc/kernels.h"

#define COMPRESSC_API extern "C" __attribute__((visibility("default")))

namespace compressc {

// y = x v^T u^T + bias, the product of rank `rank` staying in shared memory. `type` is everyone's.
struct LowrankLinear {
  const void* x;     // [rows, in] contiguous
  const void* v;     // [rank, in] contiguous
  const void* u;     // [out, rank] contiguous
  const void* bias;  // [out] or null
  void* y;           // [rows, out]
  std::int64_t rows, in, rank, out;
  DType type;
};

// Multiplies row i of contiguous data by scale[i * scale_stride], in place; a stride of 0 is one factor.
struct ScaleRows {
  void* data;  // [rows, columns]
  const float* scale;
  std::int64_t rows, columns, scale_stride;
  DType type;
};

}  // namespace compressc

// As compressc::softmax_kl, except: `total` is not computed, and a label that is not below `vocab`
// makes the row's loss and gradient NaN, because nothing here waits for the device to look.
COMPRESSC_API int compressc_cuda_softmax_kl(const compressc::SoftmaxKl* args, void* stream);

// As compressc::topk_kl; an index outside [0, vocab) makes its row NaN. `k` is at most `vocab`.
COMPRESSC_API int compressc_cuda_topk_kl(const compressc::TopkKl* args, void* stream);

// Needs rank * rows (of at most kLowrankRows a block) floats of shared memory.
COMPRESSC_API int compressc_cuda_lowrank_linear(const compressc::LowrankLinear* args, void* stream);

COMPRESSC_API int compressc_cuda_scale_rows(const compressc::ScaleRows* args, void* stream);

// What the error number means.
COMPRESSC_API const char* compressc_cuda_error(int error);

// Size of the n-th structure above, for callers in other languages to compare with theirs.
COMPRESSC_API std::int64_t compressc_cuda_size(int structure);
