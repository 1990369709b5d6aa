// Multiplies each row by a factor, in place. The gradient of a mean arrives with a factor of 1: its rows
// are left alone, so that backward costs a launch and no pass over memory, and nobody waits to look.
#include "interface.h"
#include "row.h"

namespace compressc::cuda {
namespace {

struct Task {
  ScaleRows a;
  bool aligned;
};

template <DType kType>
__global__ void __launch_bounds__(kMaxThreads, 2) scale_rows_kernel(Task task) {
  const ScaleRows& a = task.a;
  const std::int64_t i = blockIdx.x;
  const float factor = a.scale[i * a.scale_stride];
  if (factor == 1) return;
  constexpr int kBytes = kType == DType::f32 ? 4 : 2;
  void* const row = static_cast<char*>(a.data) + i * a.columns * kBytes;
  const int columns = static_cast<int>(a.columns), stride = static_cast<int>(blockDim.x) * kChunk;
  for (int at = static_cast<int>(threadIdx.x) * kChunk; at < columns; at += stride) {
    const int n = columns - at < kChunk ? columns - at : kChunk;
    float x[kChunk];
    unpack(load_raw(row, kType, at, n, task.aligned), kType, x);
#pragma unroll
    for (int j = 0; j < kChunk; ++j) x[j] *= factor;
    store_chunk(row, kType, at, n, task.aligned, x);
  }
}

}  // namespace
}  // namespace compressc::cuda

COMPRESSC_API int compressc_cuda_scale_rows(const compressc::ScaleRows* args, void* stream) {
  using namespace compressc;
  using namespace compressc::cuda;
  const ScaleRows& a = *args;
  if (a.rows == 0) return 0;
  const Task task{a, rows_aligned(a.data, a.columns, a.type)};
  const int threads = threads_for(a.columns);
  const auto rows = static_cast<unsigned>(a.rows);
  const auto queue = static_cast<Stream>(stream);
  switch (a.type) {
    case DType::f32:
      return launch(scale_rows_kernel<DType::f32>, task, rows, 1, threads, 0, queue);
    case DType::bf16:
      return launch(scale_rows_kernel<DType::bf16>, task, rows, 1, threads, 0, queue);
    default:
      return launch(scale_rows_kernel<DType::f16>, task, rows, 1, threads, 0, queue);
  }
}
