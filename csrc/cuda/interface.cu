// What of the C interface belongs to no one kernel.
#include "interface.h"

#include "platform.h"

COMPRESSC_API std::int64_t compressc_cuda_size(int structure) {
  const std::int64_t sizes[] = {sizeof(compressc::SoftmaxKl), sizeof(compressc::TopkKl),
                                sizeof(compressc::LowrankLinear), sizeof(compressc::ScaleRows)};
  return structure >= 0 && structure < 4 ? sizes[structure] : -1;
}

#if defined(__CUDACC__)

COMPRESSC_API const char* compressc_cuda_error(int error) {
  return cudaGetErrorString(static_cast<cudaError_t>(error));
}

#else

COMPRESSC_API const char* compressc_cuda_error(int error) {
  return error == emulation::kDeadlock ? "threads of a block wait at different barriers" : "unknown";
}

// Only here: the order in which a block's threads run, and the shared memory a block may ask for.
COMPRESSC_API void compressc_cuda_emulate(unsigned order, std::int64_t shared_limit) {
  emulation::settings().order = order;
  emulation::settings().shared_limit = static_cast<std::size_t>(shared_limit);
}

#endif
