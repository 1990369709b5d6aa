// Reading and writing eight neighbouring elements of a row: 16 bytes at a time where rows are aligned.
#pragma once

#include "platform.h"

#if !defined(__CUDACC__)
#include "compressc/scalar.h"
#endif

namespace compressc::cuda {

inline constexpr int kChunk = 8;  // 16 bytes of a 16-bit type, 32 of float

// A chunk as it lies in memory; only the first quad is used by 16-bit types.
struct Raw {
  Quad quad[2];
};

__host__ __device__ inline int quads_of(DType type) { return type == DType::f32 ? 2 : 1; }

#if defined(__CUDACC__)
__device__ __forceinline__ float as_float(std::uint32_t bits) { return __uint_as_float(bits); }
__device__ __forceinline__ std::uint32_t as_bits(float x) { return __float_as_uint(x); }
__device__ __forceinline__ float from_half(std::uint32_t bits) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}
__device__ __forceinline__ std::uint32_t to_half(float x) {
  return __half_as_ushort(__float2half_rn(x));
}
#else
inline float as_float(std::uint32_t bits) { return bits_to_float(bits); }
inline std::uint32_t as_bits(float x) { return float_to_bits(x); }
inline float from_half(std::uint32_t bits) { return widen(f16{static_cast<std::uint16_t>(bits)}); }
inline std::uint32_t to_half(float x) {
  f16 half;
  narrow(x, half);
  return half.bits;
}
#endif

// Round to nearest even; NaN stays NaN.
__device__ __forceinline__ std::uint32_t to_bfloat(float x) {
  const std::uint32_t bits = as_bits(x);
  return x != x ? 0x7fc0u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

// Elements [0, n) of `row + at`; the others are -inf. `aligned`: 16-byte loads are allowed.
__device__ __forceinline__ Raw load_raw(const void* row, DType type, std::int64_t at, int n,
                                        bool aligned) {
  Raw raw;
  if (type == DType::f32) {
    const float* const p = static_cast<const float*>(row) + at;
    if (aligned && n == kChunk) {
      raw.quad[0] = reinterpret_cast<const Quad*>(p)[0];
      raw.quad[1] = reinterpret_cast<const Quad*>(p)[1];
      return raw;
    }
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      raw.quad[i / 4].word[i % 4] = i < n ? as_bits(p[i]) : 0xff800000u;
    }
    return raw;
  }
  const std::uint16_t* const p = static_cast<const std::uint16_t*>(row) + at;
  if (aligned && n == kChunk) {
    raw.quad[0] = reinterpret_cast<const Quad*>(p)[0];
    return raw;
  }
  const std::uint32_t lowest = type == DType::bf16 ? 0xff80u : 0xfc00u;
#pragma unroll
  for (int i = 0; i < kChunk; i += 2) {
    const std::uint32_t low = i < n ? p[i] : lowest, high = i + 1 < n ? p[i + 1] : lowest;
    raw.quad[0].word[i / 2] = low | high << 16;
  }
  return raw;
}

__device__ __forceinline__ void unpack(const Raw& raw, DType type, float (&x)[kChunk]) {
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    if (type == DType::f32) {
      x[i] = as_float(raw.quad[i / 4].word[i % 4]);
    } else {
      const std::uint32_t word = raw.quad[0].word[i / 2];
      const std::uint32_t bits = i % 2 == 0 ? word & 0xffffu : word >> 16;
      x[i] = type == DType::bf16 ? as_float(bits << 16) : from_half(bits);
    }
  }
}

__device__ __forceinline__ void store_one(void* row, DType type, std::int64_t at, float x) {
  if (type == DType::f32) {
    static_cast<float*>(row)[at] = x;
  } else {
    static_cast<std::uint16_t*>(row)[at] =
        static_cast<std::uint16_t>(type == DType::bf16 ? to_bfloat(x) : to_half(x));
  }
}

// Writes the first n elements.
__device__ __forceinline__ void store_chunk(void* row, DType type, std::int64_t at, int n,
                                            bool aligned, const float (&x)[kChunk]) {
  if (!aligned || n < kChunk) {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      if (i < n) store_one(row, type, at + i, x[i]);
    }
    return;
  }
  if (type == DType::f32) {
    Quad* const p = reinterpret_cast<Quad*>(static_cast<float*>(row) + at);
#pragma unroll
    for (int q = 0; q < 2; ++q) {
      Quad quad;
#pragma unroll
      for (int i = 0; i < 4; ++i) quad.word[i] = as_bits(x[4 * q + i]);
      p[q] = quad;
    }
    return;
  }
  Quad quad;
#pragma unroll
  for (int i = 0; i < kChunk; i += 2) {
    const std::uint32_t low = type == DType::bf16 ? to_bfloat(x[i]) : to_half(x[i]);
    const std::uint32_t high = type == DType::bf16 ? to_bfloat(x[i + 1]) : to_half(x[i + 1]);
    quad.word[i / 2] = low | high << 16;
  }
  *reinterpret_cast<Quad*>(static_cast<std::uint16_t*>(row) + at) = quad;
}

// Whether every row of elements starts on a 16-byte boundary.
inline bool rows_aligned(const void* base, std::int64_t stride, DType type) {
  const std::int64_t bytes = stride * (type == DType::f32 ? 4 : 2);
  return reinterpret_cast<std::uintptr_t>(base) % sizeof(Quad) == 0 &&
         bytes % static_cast<std::int64_t>(sizeof(Quad)) == 0;
}

}  // namespace compressc::cuda
