// AVX2 with FMA and F16C. Included by vec.h alone.
#pragma once

#include <immintrin.h>

#include "compressc/dtype.h"

namespace compressc::COMPRESSC_ISA {

struct Vec {
  static constexpr int width = 8;
  __m256 v;
};

inline __m256i lanes_below(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline __m256 widen(__m128i bits, bf16) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline __m256 widen(__m128i bits, f16) { return _mm256_cvtph_ps(bits); }
// Round to nearest even; the added constant would turn some NaN into infinity, so those are kept.
inline __m128i narrow(__m256 x, bf16) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i kept = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc00000), nan);
  const __m256i halves = _mm256_srli_epi32(kept, 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
}
inline __m128i narrow(__m256 x, f16) { return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT); }

inline Vec set1(float x) { return {_mm256_set1_ps(x)}; }
inline Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
template <typename T>
inline Vec load(const T* p) {
  return {widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), T{})};
}
// The first n lanes; the others hold `fill`.
inline Vec load_partial(const float* p, int n, float fill) {
  const __m256i mask = lanes_below(n);
  const __m256 x = _mm256_maskload_ps(p, mask);
  return {_mm256_blendv_ps(_mm256_set1_ps(fill), x, _mm256_castsi256_ps(mask))};
}
template <typename T>
inline Vec load_partial(const T* p, int n, float fill) {
  T lanes[Vec::width] = {};
  for (int i = 0; i < n; ++i) lanes[i] = p[i];
  const __m256 mask = _mm256_castsi256_ps(lanes_below(n));
  return {_mm256_blendv_ps(_mm256_set1_ps(fill), load(lanes).v, mask)};
}
inline Vec load_int8(const std::int8_t* p) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))};
}
inline void store(float* p, Vec x) { _mm256_storeu_ps(p, x.v); }
template <typename T>
inline void store(T* p, Vec x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(x.v, T{}));
}
inline void store_partial(float* p, Vec x, int n) { _mm256_maskstore_ps(p, lanes_below(n), x.v); }
template <typename T>
inline void store_partial(T* p, Vec x, int n) {
  T lanes[Vec::width];
  store(lanes, x);
  for (int i = 0; i < n; ++i) p[i] = lanes[i];
}
// Past the caches: for results too large to be read from them again. p must be vector-aligned.
inline void stream(float* p, Vec x) { _mm256_stream_ps(p, x.v); }
template <typename T>
inline void stream(T* p, Vec x) {
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), narrow(x.v, T{}));
}
inline void stream_fence() { _mm_sfence(); }

inline Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vec sub(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vec div(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
// max(a, b) is b where either is NaN.
inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
// p > 0 ? p * x + c : c. Where a probability is 0, x may be infinite and must not matter.
inline Vec fma_where_positive(Vec p, Vec x, Vec c) {
  const __m256 positive = _mm256_cmp_ps(p.v, _mm256_setzero_ps(), _CMP_GT_OQ);
  return {_mm256_blendv_ps(c.v, _mm256_fmadd_ps(p.v, x.v, c.v), positive)};
}
inline Vec round_to_int(Vec x) {
  return {_mm256_round_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// The two ends of an exponential 2^x, x <= 0, around its polynomial: x bounded so that n is at least
// -127 (NaN passes, in this order), and p 2^n, exactly 0 for n = -127.
inline Vec bounded(Vec x) { return max(set1(-127.0f), x); }
inline Vec times_power_of_two(Vec p, Vec n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
  return mul(p, {_mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23))});
}
inline float reduce_add(Vec x) {
  __m128 y = _mm_add_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1));
  y = _mm_add_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_add_ss(y, _mm_shuffle_ps(y, y, 1)));
}
inline float reduce_max(Vec x) {
  __m128 y = _mm_max_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1));
  y = _mm_max_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_max_ss(y, _mm_shuffle_ps(y, y, 1)));
}

// Sums that a matrix product keeps in registers, beside what it multiplies.
inline constexpr int kTileSums = 8;

// Lane i: lane i % N of x.
template <int N>
inline Vec repeat(Vec x) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return {_mm256_permutevar8x32_ps(x.v, _mm256_and_si256(lane, _mm256_set1_epi32(N - 1)))};
}
// Lane j of row i to lane i of row j.
inline void transpose(Vec (&t)[8]) {
  Vec s[8];
  for (int i = 0; i < 8; i += 2) {
    s[i].v = _mm256_unpacklo_ps(t[i].v, t[i + 1].v);
    s[i + 1].v = _mm256_unpackhi_ps(t[i].v, t[i + 1].v);
  }
  for (int i = 0; i < 8; i += 4) {  // t[i + c]: column 4 q + c of rows i to i + 3, in half q
    for (int h = 0; h < 2; ++h) {
      const __m256d a = _mm256_castps_pd(s[i + h].v), b = _mm256_castps_pd(s[i + h + 2].v);
      t[i + 2 * h].v = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
      t[i + 2 * h + 1].v = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
    }
  }
  for (int c = 0; c < 4; ++c) {  // 2 x 2 halves
    s[c].v = _mm256_permute2f128_ps(t[c].v, t[c + 4].v, 0x20);
    s[c + 4].v = _mm256_permute2f128_ps(t[c].v, t[c + 4].v, 0x31);
  }
  for (int i = 0; i < 8; ++i) t[i] = s[i];
}
// The sum of vector i in lane i.
inline Vec reduce_add_each(const Vec (&t)[8]) {
  const auto pairs = [](Vec a, Vec b) { return _mm256_hadd_ps(a.v, b.v); };
  const __m256 low = _mm256_hadd_ps(pairs(t[0], t[1]), pairs(t[2], t[3]));
  const __m256 high = _mm256_hadd_ps(pairs(t[4], t[5]), pairs(t[6], t[7]));
  return {_mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20),
                        _mm256_permute2f128_ps(low, high, 0x31))};
}

}  // namespace compressc::COMPRESSC_ISA
