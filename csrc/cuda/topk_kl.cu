// softmax_kl with a teacher of whom only k logits are known: KL of k + 1 events, the last pooling all
// other tokens. With Q the student's mass outside the k and `tail` the teacher's, the gradient is T times
//   q_i - p_i among the k,  q_i (1 - tail / Q) outside.
//
// One block a row. The k tokens are marked in a bit for each token in shared memory, so that the
// student's mass outside them is a sum of its own, and keeps its digits when it is small.
#include "interface.h"
#include "row.h"

namespace compressc::cuda {
namespace {

struct Task {
  TopkKl a;
  bool student_aligned, grad_aligned;
};

struct Marks {
  unsigned* bits;
  // Bit i: whether token at + i is one of the k. `at` is a multiple of 8.
  __device__ unsigned of_chunk(int at) const { return bits[at / 32] >> at % 32 & 0xffu; }
};

__device__ __forceinline__ float maximum(float x) {
  float value[1] = {x};
  block_reduce<Max>(value);
  return value[0];
}

__device__ __forceinline__ float total(float x) {
  float value[1] = {x};
  block_reduce<Sum>(value);
  return value[0];
}

// Clears the marks and sets those of the k. False in every thread if an index is not in the vocabulary.
__device__ __forceinline__ bool mark(const TopkKl& a, const std::int64_t* indices, const Marks& marks) {
  const int threads = static_cast<int>(blockDim.x), words = (static_cast<int>(a.vocab) + 31) / 32;
  for (int w = static_cast<int>(threadIdx.x); w < words; w += threads) marks.bits[w] = 0;
  BLOCK_BARRIER();
  float wrong = 0;
  for (int j = static_cast<int>(threadIdx.x); j < a.k; j += threads) {
    const std::int64_t at = indices[j];
    if (at < 0 || at >= a.vocab) {
      wrong = 1;
    } else {
      atomicOr(marks.bits + at / 32, 1u << at % 32);
    }
  }
  return total(wrong) == 0;  // and everyone has marked
}

template <DType kType>
__device__ __forceinline__ float logit(const void* row, std::int64_t at) {
  float x[kChunk];
  unpack(load_raw(row, kType, at, 1, false), kType, x);
  return x[0];
}

// The student's sums relative to its maximum: `known` over the k tokens, `rest` over all others.
struct Student {
  float m, known, rest;
};

template <DType kType>
__device__ __forceinline__ Student student_sums(const Task& task, const void* row,
                                                const std::int64_t* indices, const Marks& marks) {
  const TopkKl& a = task.a;
  const float k = kLog2e / a.temperature;
  const int vocab = static_cast<int>(a.vocab), threads = static_cast<int>(blockDim.x);
  Student r{-INFINITY, 0, 0};
  float shift = 0;
  for (int at = static_cast<int>(threadIdx.x) * kChunk; at < vocab; at += threads * kChunk) {
    const int n = vocab - at < kChunk ? vocab - at : kChunk;
    float x[kChunk];
    unpack(load_raw(row, kType, at, n, task.student_aligned), kType, x);
    float m = r.m;
#pragma unroll
    for (int i = 0; i < kChunk; ++i) m = fmaxf(m, x[i]);
    const float next = finite_or_zero(m);
    if (m > r.m) r.rest *= exp2f((r.m - next) * k);
    r.m = m;
    shift = next;
    const unsigned marked = marks.of_chunk(at);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      if ((marked >> i & 1u) == 0) sum += exp2f((x[i] - shift) * k);
    }
    r.rest += sum;
  }
  const float m = maximum(r.m), whole = finite_or_zero(m);
  r.rest = total(r.rest * exp2f((r.m - whole) * k));
  r.m = m;
  for (int j = static_cast<int>(threadIdx.x); j < a.k; j += threads) {
    r.known += exp2f((logit<kType>(row, indices[j]) - whole) * k);
  }
  r.known = total(r.known);
  return r;
}

// The teacher's softmax over its k tokens is `factor` e^((value - m) / T).
struct Teacher {
  float m, factor;
  bool masked;
};

__device__ __forceinline__ Teacher teacher_sums(const TopkKl& a, const float* values, float tail) {
  const float k = kLog2e / a.temperature;
  const int threads = static_cast<int>(blockDim.x), first = static_cast<int>(threadIdx.x);
  float m = -INFINITY, z = 0;
  for (int j = first; j < a.k; j += threads) m = fmaxf(m, values[j]);
  m = finite_or_zero(maximum(m));
  for (int j = first; j < a.k; j += threads) z += exp2f((values[j] - m) * k);
  z = total(z);
  return {m, (1.0f - tail) / z, z == 0};
}

template <DType kType>
__device__ __forceinline__ float divergence(const TopkKl& a, const void* row, const float* values,
                                            const std::int64_t* indices, float tail,
                                            const Student& s, const Teacher& t) {
  const float k = kLog2e / a.temperature, inverse_t = 1.0f / a.temperature;
  const float log_z = logf(s.known + s.rest), log_factor = logf(t.factor);
  float loss = 0;
  for (int j = static_cast<int>(threadIdx.x); j < a.k; j += static_cast<int>(blockDim.x)) {
    const float x_t = values[j] - t.m, x_s = logit<kType>(row, indices[j]) - finite_or_zero(s.m);
    const float p = exp2f(x_t * k) * t.factor;
    // Element by element, so that what both sides have in common cancels before it is rounded.
    if (!(p <= 0)) loss += p * ((x_t - x_s) * inverse_t + (log_factor + log_z));
  }
  loss = total(loss);
  const float z = s.known + s.rest;
  const float log_rest = s.known < s.rest ? log1pf(-s.known / z) : logf(s.rest / z);
  if (tail > 0) loss += tail * (logf(tail) - log_rest);
  return loss < 0 ? 0.0f : loss;
}

template <DType kType>
__device__ __forceinline__ void write_gradient(const Task& task, std::int64_t i, const void* row,
                                               const Marks& marks, float factor, const Student& s,
                                               const Teacher& t) {
  const TopkKl& a = task.a;
  constexpr int kBytes = kType == DType::f32 ? 4 : 2;
  void* const grad = static_cast<char*>(a.grad) + i * a.vocab * kBytes;
  const int vocab = static_cast<int>(a.vocab), threads = static_cast<int>(blockDim.x);
  const float k = kLog2e / a.temperature, shift = finite_or_zero(s.m), z = s.known + s.rest;
  const float pull = factor * a.temperature;
  // Without mass outside there is nothing to pull there: its logits are -inf, or far below.
  const float outside = s.rest > 0 ? pull * (1.0f / z - a.tail[i] / s.rest) : 0.0f;
  for (int at = static_cast<int>(threadIdx.x) * kChunk; at < vocab; at += threads * kChunk) {
    const int n = vocab - at < kChunk ? vocab - at : kChunk;
    float x[kChunk];
    unpack(load_raw(row, kType, at, n, task.student_aligned), kType, x);
#pragma unroll
    for (int j = 0; j < kChunk; ++j) x[j] = exp2f((x[j] - shift) * k) * outside;
    const unsigned marked = marks.of_chunk(at);
    if (marked == 0) {
      store_chunk(grad, kType, at, n, task.grad_aligned, x);
      continue;
    }
#pragma unroll
    for (int j = 0; j < kChunk; ++j) {  // the k tokens may not have been read yet: `grad` may be `row`
      if (j < n && (marked >> j & 1u) == 0) store_one(grad, kType, at + j, x[j]);
    }
  }
  for (int j = static_cast<int>(threadIdx.x); j < a.k; j += threads) {
    const std::int64_t at = a.indices[i * a.k + j];
    const float q = exp2f((logit<kType>(row, at) - shift) * k) / z;
    const float p = exp2f((a.values[i * a.k + j] - t.m) * k) * t.factor;
    store_one(grad, kType, at, pull * (q - p));
  }
}

template <DType kType>
__global__ void __launch_bounds__(kMaxThreads, 2) topk_kl_rows(Task task) {
  DYNAMIC_SHARED(shared);
  const TopkKl& a = task.a;
  constexpr int kBytes = kType == DType::f32 ? 4 : 2;
  const std::int64_t i = blockIdx.x;
  const void* const row = static_cast<const char*>(a.student) + i * a.student_stride * kBytes;
  const std::int64_t* const indices = a.indices + i * a.k;
  const float* const values = a.values + i * a.k;
  const Marks marks{reinterpret_cast<unsigned*>(shared)};
  const float factor = a.scale * (a.weight == nullptr ? 1.0f : a.weight[i]);
  // Everything that decides here is the same in every thread.
  float loss = 0, fill = 0;
  bool counts = factor != 0 && a.k > 0;
  if (counts && !mark(a, indices, marks)) {
    loss = fill = NAN;  // nothing waits here to report it
    counts = false;
  }
  if (counts) {
    const Student s = student_sums<kType>(task, row, indices, marks);
    const Teacher t = teacher_sums(a, values, a.tail[i]);
    counts = !(s.m == -INFINITY && s.known + s.rest == 0) && !t.masked;
    if (counts) {
      const float kl = divergence<kType>(a, row, values, indices, a.tail[i], s, t);
      loss = factor * a.temperature * a.temperature * kl;
      if (a.grad != nullptr) write_gradient<kType>(task, i, row, marks, factor, s, t);
    }
  }
  if (threadIdx.x == 0) a.loss[i] = loss;
  if (counts || a.grad == nullptr) return;
  void* const grad = static_cast<char*>(a.grad) + i * a.vocab * kBytes;
  fill_row<kType>(grad, static_cast<int>(a.vocab), task.grad_aligned, fill);
}

}  // namespace
}  // namespace compressc::cuda

COMPRESSC_API int compressc_cuda_topk_kl(const compressc::TopkKl* args, void* stream) {
  using namespace compressc;
  using namespace compressc::cuda;
  const TopkKl& a = *args;
  if (a.rows == 0) return 0;
  const Task task{a, rows_aligned(a.student, a.student_stride, a.student_type),
                  rows_aligned(a.grad, a.vocab, a.student_type)};
  const int threads = threads_for(a.vocab);
  const auto rows = static_cast<unsigned>(a.rows);
  const auto shared = static_cast<std::size_t>((a.vocab + 127) / 128) * sizeof(Quad);
  const auto queue = static_cast<Stream>(stream);
  switch (a.student_type) {
    case DType::f32:
      return launch(topk_kl_rows<DType::f32>, task, rows, 1, threads, shared, queue);
    case DType::bf16:
      return launch(topk_kl_rows<DType::bf16>, task, rows, 1, threads, shared, queue);
    default:
      return launch(topk_kl_rows<DType::f16>, task, rows, 1, threads, shared, queue);
  }
}
