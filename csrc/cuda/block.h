// Sums and maxima over the threads of a block.
#pragma once

#include "platform.h"

// A test removes the barriers on purpose, to see that it would notice.
#if defined(COMPRESSC_WITHOUT_BARRIERS)
#define BLOCK_BARRIER() static_cast<void>(0)
#else
#define BLOCK_BARRIER() __syncthreads()
#endif

namespace compressc::cuda {

inline constexpr int kMaxThreads = 512;
inline constexpr unsigned kAllLanes = 0xffffffffu;

struct Sum {
  static __device__ __forceinline__ float of(float a, float b) { return a + b; }
};
// NaN raises nothing: the sums will show it.
struct Max {
  static __device__ __forceinline__ float of(float a, float b) { return fmaxf(a, b); }
};

// Each of the N values becomes its sum (or maximum) over all threads, in every thread, in a fixed order.
template <typename Combine, int N>
__device__ __forceinline__ void block_reduce(float (&x)[N]) {
  SHARED_ARRAY(float, parts, kMaxThreads / kWarp * N);
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      x[i] = Combine::of(x[i], __shfl_xor_sync(kAllLanes, x[i], distance));
    }
  }
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  if (warps == 1) {
    __syncwarp();
    return;
  }
  const int thread = static_cast<int>(threadIdx.x);
  BLOCK_BARRIER();  // the parts of the last call have been read
  if (thread % kWarp == 0) {
#pragma unroll
    for (int i = 0; i < N; ++i) parts[thread / kWarp * N + i] = x[i];
  }
  BLOCK_BARRIER();
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = parts[i];
  for (int warp = 1; warp < warps; ++warp) {
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = Combine::of(x[i], parts[warp * N + i]);
  }
}

}  // namespace compressc::cuda
