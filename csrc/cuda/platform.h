// What a kernel's source needs to be compiled by nvcc, and by a host compiler through emulation.h.
#pragma once

#include "compressc/kernels.h"

#if defined(__CUDACC__)

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define SHARED_ARRAY(type, name, size) __shared__ type name[size]
#define DYNAMIC_SHARED(name) extern __shared__ compressc::cuda::Quad name[]

#else

#include "emulation.h"

#endif

namespace compressc::cuda {

// 128 bits: the widest load and store of a thread.
struct alignas(16) Quad {
  std::uint32_t word[4];
};

inline constexpr int kWarp = 32;

#if defined(__CUDACC__)

using Stream = cudaStream_t;

// Starts `kernel` on `stream`; returns a cudaError_t, 0 for success.
template <typename Args>
int launch(void (*kernel)(Args), const Args& args, unsigned blocks_x, unsigned blocks_y, int threads,
           std::size_t shared, Stream stream) {
  // Asked for every time: the attribute belongs to the current device's copy of the kernel.
  if (shared > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) return error;
  }
  kernel<<<dim3(blocks_x, blocks_y), threads, shared, stream>>>(args);
  return cudaGetLastError();
}

// Bytes of shared memory one block may ask for on the current device.
inline std::size_t shared_limit() {
  int device = 0, bytes = 48 * 1024;
  if (cudaGetDevice(&device) == cudaSuccess) {
    cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  }
  return static_cast<std::size_t>(bytes);
}

// Streaming multiprocessors of the current device.
inline int processors() {
  int device = 0, count = 1;
  if (cudaGetDevice(&device) == cudaSuccess) {
    cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  }
  return count;
}

#else

using Stream = void*;

template <typename Args>
int launch(void (*kernel)(Args), const Args& args, unsigned blocks_x, unsigned blocks_y, int threads,
           std::size_t shared, Stream) {
  return emulation::launch([&] { kernel(args); }, blocks_x, blocks_y, threads, shared);
}

inline std::size_t shared_limit() { return emulation::settings().shared_limit; }
inline int processors() { return 3; }

#endif

}  // namespace compressc::cuda
