// y = x v^T u^T + bias for few rows, in one kernel: the product t = x v^T of rank r stays in shared memory.
//
// Every block makes all of t for its rows and then its share of y, so v is read once a block: that pays
// only while v is small and a launch saved is worth more (docs/kernels.md has the arithmetic).
#include "interface.h"
#include "row.h"

namespace compressc::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kLowrankRows = 8;  // of x, in one block

struct Task {
  LowrankLinear a;
  bool in_aligned, rank_aligned;
  int lanes;      // that share one output's sum over the rank: a power of two
  int per_block;  // outputs
};

// Adds a * b of the first n elements.
__device__ __forceinline__ float multiply(const float (&a)[kChunk], const float (&b)[kChunk], int n,
                                          float sum) {
#pragma unroll
  for (int i = 0; i < kChunk; ++i) sum = i < n ? fmaf(a[i], b[i], sum) : sum;
  return sum;
}

// The sum over `lanes` neighbouring lanes, in each of them.
template <int kRows>
__device__ __forceinline__ void sum_lanes(float (&x)[kRows], int lanes) {
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (int m = 0; m < kRows; ++m) x[m] += __shfl_xor_sync(kAllLanes, x[m], distance);
  }
}

// t[m][j] = x[first + m] . v[j], a warp for each j; rows beyond the last repeat it.
template <DType kType, int kRows>
__device__ __forceinline__ void multiply_v(const Task& task, int first, float* t) {
  const LowrankLinear& a = task.a;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  const int inner = static_cast<int>(a.in), rank = static_cast<int>(a.rank);
  const int last = static_cast<int>(a.rows) - 1;
  for (int j = thread / kWarp; j < rank; j += kWarps) {
    float sums[kRows] = {};
    for (int at = lane * kChunk; at < inner; at += kWarp * kChunk) {
      const int n = inner - at < kChunk ? inner - at : kChunk;
      float weights[kChunk], x[kChunk];
      unpack(load_raw(a.v, kType, std::int64_t{j} * inner + at, n, task.in_aligned), kType, weights);
#pragma unroll
      for (int m = 0; m < kRows; ++m) {
        const std::int64_t row = first + m < last ? first + m : last;
        unpack(load_raw(a.x, kType, row * inner + at, n, task.in_aligned), kType, x);
        sums[m] = multiply(x, weights, n, sums[m]);
      }
    }
    sum_lanes(sums, kWarp);
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      if (lane == 0) t[m * rank + j] = sums[m];
    }
  }
}

// y[first + m][n] = t[m] . u[n] + bias[n] for this block's outputs n.
template <DType kType, int kRows>
__device__ __forceinline__ void multiply_u(const Task& task, int first, const float* t) {
  const LowrankLinear& a = task.a;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % task.lanes;
  const int rank = static_cast<int>(a.rank), out = static_cast<int>(a.out);
  const int begin = static_cast<int>(blockIdx.x) * task.per_block;
  const int step = kThreads / task.lanes;
  // All lanes of a warp go round equally often, for the shuffles.
  for (int o = 0; o < task.per_block; o += step) {
    const int n = begin + o + thread / task.lanes;
    const bool mine = n < out && n < begin + task.per_block;
    float sums[kRows] = {};
    for (int at = lane * kChunk; mine && at < rank; at += task.lanes * kChunk) {
      const int count = rank - at < kChunk ? rank - at : kChunk;
      float weights[kChunk];
      unpack(load_raw(a.u, kType, std::int64_t{n} * rank + at, count, task.rank_aligned), kType,
             weights);
#pragma unroll
      for (int m = 0; m < kRows; ++m) {
#pragma unroll
        for (int i = 0; i < kChunk; ++i) {
          if (i < count) sums[m] = fmaf(t[m * rank + at + i], weights[i], sums[m]);
        }
      }
    }
    sum_lanes(sums, task.lanes);
    if (!mine || lane != 0) continue;
    float bias[kChunk] = {};
    if (a.bias != nullptr) unpack(load_raw(a.bias, kType, n, 1, false), kType, bias);
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      const std::int64_t row = first + m;
      if (row < a.rows) store_one(a.y, kType, row * out + n, sums[m] + bias[0]);
    }
  }
}

template <DType kType, int kRows>
__global__ void __launch_bounds__(kThreads) lowrank_linear_rows(Task task) {
  DYNAMIC_SHARED(shared);
  float* const t = reinterpret_cast<float*>(shared);
  const int first = static_cast<int>(blockIdx.y) * kRows;
  multiply_v<kType, kRows>(task, first, t);
  BLOCK_BARRIER();
  multiply_u<kType, kRows>(task, first, t);
}

template <DType kType, int kRows>
int start_rows(const Task& task, Stream stream) {
  const LowrankLinear& a = task.a;
  const auto across = static_cast<unsigned>((a.out + task.per_block - 1) / task.per_block);
  const auto down = static_cast<unsigned>((a.rows + kRows - 1) / kRows);
  const auto shared = static_cast<std::size_t>(a.rank) * kRows * sizeof(float);
  return launch(lowrank_linear_rows<kType, kRows>, task, across, down, kThreads, shared, stream);
}

template <DType kType>
int start(const Task& task, Stream stream) {
  if (task.a.rows == 1) return start_rows<kType, 1>(task, stream);
  if (task.a.rows <= 4) return start_rows<kType, 4>(task, stream);
  return start_rows<kType, kLowrankRows>(task, stream);
}

}  // namespace
}  // namespace compressc::cuda

COMPRESSC_API int compressc_cuda_lowrank_linear(const compressc::LowrankLinear* args, void* stream) {
  using namespace compressc;
  using namespace compressc::cuda;
  const LowrankLinear& a = *args;
  if (a.rows == 0 || a.out == 0) return 0;
  Task task{a, rows_aligned(a.x, a.in, a.type) && rows_aligned(a.v, a.in, a.type),
            rows_aligned(a.u, a.rank, a.type), 1, 0};
  while (task.lanes < kWarp && task.lanes * kChunk < a.rank) task.lanes *= 2;
  const std::int64_t blocks = processors(), each = (a.out + blocks - 1) / blocks;
  const std::int64_t least = kThreads / task.lanes;  // outputs that a block makes at a time
  task.per_block = static_cast<int>((each + least - 1) / least * least);
  const auto queue = static_cast<Stream>(stream);
  if (a.type == DType::f32) return start<DType::f32>(task, queue);
  if (a.type == DType::bf16) return start<DType::bf16>(task, queue);
  return start<DType::f16>(task, queue);
}
