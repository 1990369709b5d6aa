// A row of student and teacher logits, read by one block: the first time from memory, and as far as shared
// memory goes from there when it is needed again.
#pragma once

#include "block.h"
#include "element.h"

namespace compressc::cuda {

inline constexpr float kLog2e = 1.44269504f;

struct Row {
  const void *student, *teacher;
  DType teacher_type;
  int vocab;
  bool student_aligned, teacher_aligned;
  Quad* kept;       // [quads of both][kept_chunks]: each thread reads what it wrote itself
  int kept_chunks;  // of the row's first ones
};

__device__ __forceinline__ float finite_or_zero(float m) { return m == -INFINITY ? 0.0f : m; }

template <int kQuads>
__device__ __forceinline__ void keep(const Row& row, int plane, int chunk, const Raw& raw) {
#pragma unroll
  for (int q = 0; q < kQuads; ++q) row.kept[(plane + q) * row.kept_chunks + chunk] = raw.quad[q];
}

template <int kQuads>
__device__ __forceinline__ Raw kept(const Row& row, int plane, int chunk) {
  Raw raw;
#pragma unroll
  for (int q = 0; q < kQuads; ++q) raw.quad[q] = row.kept[(plane + q) * row.kept_chunks + chunk];
  return raw;
}

// Calls step(at, n, student, teacher) for this thread's chunks: elements [at, at + n) of the row as
// float, -inf beyond. `kFirst`: nothing is kept yet.
template <DType kStudent, bool kFirst, typename Step>
__device__ __forceinline__ void each_chunk(const Row& row, const Step& step) {
  constexpr int kStudentQuads = kStudent == DType::f32 ? 2 : 1;
  const bool wide = row.teacher_type == DType::f32;
  const int chunks = (row.vocab + kChunk - 1) / kChunk;
  for (int c = static_cast<int>(threadIdx.x); c < chunks; c += static_cast<int>(blockDim.x)) {
    const int at = c * kChunk, n = row.vocab - at < kChunk ? row.vocab - at : kChunk;
    const bool here = c < row.kept_chunks;
    Raw s, t;
    if (!kFirst && here) {
      s = kept<kStudentQuads>(row, 0, c);
      t = wide ? kept<2>(row, kStudentQuads, c) : kept<1>(row, kStudentQuads, c);
    } else {
      s = load_raw(row.student, kStudent, at, n, row.student_aligned);
      t = load_raw(row.teacher, row.teacher_type, at, n, row.teacher_aligned);
    }
    if (kFirst && here) {
      keep<kStudentQuads>(row, 0, c, s);
      wide ? keep<2>(row, kStudentQuads, c, t) : keep<1>(row, kStudentQuads, c, t);
    }
    float x_s[kChunk], x_t[kChunk];
    unpack(s, kStudent, x_s);
    unpack(t, row.teacher_type, x_t);
    step(at, n, x_s, x_t);
  }
}

// One value all over a row: 0 where the row does not count.
template <DType kType>
__device__ __forceinline__ void fill_row(void* grad, int vocab, bool aligned, float value) {
  float x[kChunk];
#pragma unroll
  for (int i = 0; i < kChunk; ++i) x[i] = value;
  const int stride = static_cast<int>(blockDim.x) * kChunk;
  for (int at = static_cast<int>(threadIdx.x) * kChunk; at < vocab; at += stride) {
    store_chunk(grad, kType, at, vocab - at < kChunk ? vocab - at : kChunk, aligned, x);
  }
}

// One chunk a thread, until a block is full.
inline int threads_for(std::int64_t vocab) {
  if (vocab <= 32 * kChunk) return 32;
  if (vocab <= 128 * kChunk) return 128;
  return vocab <= 1024 * kChunk ? 256 : 512;
}

// Chunks of a row to keep in shared memory, at `bytes` each. The whole row where it fits; or else as
// much as leaves room for a second block on the same processor.
inline int chunks_to_keep(std::int64_t vocab, std::int64_t bytes) {
  const std::int64_t chunks = (vocab + kChunk - 1) / kChunk;
  const auto limit = static_cast<std::int64_t>(shared_limit()) - 2048;  // static arrays, and CUDA's own
  const std::int64_t kept = chunks * bytes <= limit ? chunks : limit / 2 / bytes;
  return static_cast<int>(kept < 0 ? 0 : kept);
}

}  // namespace compressc::cuda
