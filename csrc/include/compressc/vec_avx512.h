// AVX-512 (F, BW, DQ, VL). Included by vec.h alone.
#pragma once

#include <immintrin.h>

#include "compressc/dtype.h"

namespace compressc::COMPRESSC_ISA {

struct Vec {
  static constexpr int width = 16;
  __m512 v;
};

inline __mmask16 lanes_below(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
inline __m512 widen(__m256i bits, bf16) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline __m512 widen(__m256i bits, f16) { return _mm512_cvtph_ps(bits); }
#if defined(COMPRESSC_ISA_AVX512_BF16)
inline __m256i narrow(__m512 x, bf16) { return (__m256i)_mm512_cvtneps_pbh(x); }
#else
// Round to nearest even; the added constant would turn some NaN into infinity, so those are kept.
inline __m256i narrow(__m512 x, bf16) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __m512i kept = _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), rounded,
                                               _mm512_set1_epi32(0x7fc00000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16));
}
#endif
inline __m256i narrow(__m512 x, f16) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT); }

inline Vec set1(float x) { return {_mm512_set1_ps(x)}; }
inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
template <typename T>
inline Vec load(const T* p) {
  return {widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), T{})};
}
// The first n lanes; the others hold `fill`.
inline Vec load_partial(const float* p, int n, float fill) {
  return {_mm512_mask_loadu_ps(_mm512_set1_ps(fill), lanes_below(n), p)};
}
template <typename T>
inline Vec load_partial(const T* p, int n, float fill) {
  const __m512 x = widen(_mm256_maskz_loadu_epi16(lanes_below(n), p), T{});
  return {_mm512_mask_blend_ps(lanes_below(n), _mm512_set1_ps(fill), x)};
}
inline Vec load_int8(const std::int8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
}
inline void store(float* p, Vec x) { _mm512_storeu_ps(p, x.v); }
template <typename T>
inline void store(T* p, Vec x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(x.v, T{}));
}
inline void store_partial(float* p, Vec x, int n) { _mm512_mask_storeu_ps(p, lanes_below(n), x.v); }
template <typename T>
inline void store_partial(T* p, Vec x, int n) {
  _mm256_mask_storeu_epi16(p, lanes_below(n), narrow(x.v, T{}));
}
// Past the caches: for results too large to be read from them again. p must be vector-aligned.
inline void stream(float* p, Vec x) { _mm512_stream_ps(p, x.v); }
template <typename T>
inline void stream(T* p, Vec x) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), narrow(x.v, T{}));
}
inline void stream_fence() { _mm_sfence(); }

inline Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// max(a, b) is b where either is NaN.
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
// p > 0 ? p * x + c : c. Where a probability is 0, x may be infinite and must not matter.
inline Vec fma_where_positive(Vec p, Vec x, Vec c) {
  const __mmask16 positive = _mm512_cmp_ps_mask(p.v, _mm512_setzero_ps(), _CMP_GT_OQ);
  return {_mm512_mask3_fmadd_ps(p.v, x.v, c.v, positive)};
}
inline float reduce_add(Vec x) { return _mm512_reduce_add_ps(x.v); }
inline float reduce_max(Vec x) { return _mm512_reduce_max_ps(x.v); }

// Sums that a matrix product keeps in registers: enough to hide how long an addition takes.
inline constexpr int kTileSums = 16;

// Lane i: lane i % N of x.
template <int N>
inline Vec repeat(Vec x) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return {_mm512_permutexvar_ps(_mm512_and_si512(lane, _mm512_set1_epi32(N - 1)), x.v)};
}
// Lane j of row i to lane i of row j.
inline void transpose(Vec (&t)[16]) {
  Vec s[16];
  for (int i = 0; i < 16; i += 2) {
    s[i].v = _mm512_unpacklo_ps(t[i].v, t[i + 1].v);
    s[i + 1].v = _mm512_unpackhi_ps(t[i].v, t[i + 1].v);
  }
  for (int i = 0; i < 16; i += 4) {  // t[i + c]: column 4 q + c of rows i to i + 3, in quarter q
    for (int h = 0; h < 2; ++h) {
      const __m512d a = _mm512_castps_pd(s[i + h].v), b = _mm512_castps_pd(s[i + h + 2].v);
      t[i + 2 * h].v = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
      t[i + 2 * h + 1].v = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    }
  }
  for (int c = 0; c < 4; ++c) {  // 4 x 4 quarters
    const __m512 even0 = _mm512_shuffle_f32x4(t[c].v, t[c + 4].v, 0x88);
    const __m512 odd0 = _mm512_shuffle_f32x4(t[c].v, t[c + 4].v, 0xdd);
    const __m512 even1 = _mm512_shuffle_f32x4(t[c + 8].v, t[c + 12].v, 0x88);
    const __m512 odd1 = _mm512_shuffle_f32x4(t[c + 8].v, t[c + 12].v, 0xdd);
    s[c].v = _mm512_shuffle_f32x4(even0, even1, 0x88);
    s[c + 4].v = _mm512_shuffle_f32x4(odd0, odd1, 0x88);
    s[c + 8].v = _mm512_shuffle_f32x4(even0, even1, 0xdd);
    s[c + 12].v = _mm512_shuffle_f32x4(odd0, odd1, 0xdd);
  }
  for (int i = 0; i < 16; ++i) t[i] = s[i];
}

// The sum of vector i in lane i.
inline Vec reduce_add_each(const Vec (&t)[16]) {
  __m512 quad[4];
  for (int i = 0; i < 4; ++i) {
    const Vec* const p = t + 4 * i;
    const __m512d a = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(p[0].v, p[1].v),
                                                     _mm512_unpackhi_ps(p[0].v, p[1].v)));
    const __m512d b = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(p[2].v, p[3].v),
                                                     _mm512_unpackhi_ps(p[2].v, p[3].v)));
    quad[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                            _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
  }
  const auto halves = [](__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  };
  return {halves(halves(quad[0], quad[1]), halves(quad[2], quad[3]))};
}

#if defined(COMPRESSC_ISA_AVX512_BF16)
inline Vec set1_bits(std::int32_t bits) { return {_mm512_castsi512_ps(_mm512_set1_epi32(bits))}; }
inline Vec load_bits(const void* p) { return {_mm512_castsi512_ps(_mm512_loadu_si512(p))}; }
// Pairs of bfloat16: a_low b_low + a_high b_high + sum.
inline Vec fma_pairs(Vec a, Vec b, Vec sum) {
  return {_mm512_dpbf16_ps(sum.v, (__m512bh)a.v, (__m512bh)b.v)};
}
// Lane i: the pair of low[i] and high[i], rounded.
inline Vec make_pairs(Vec low, Vec high) {
  const __m512i l = _mm512_cvtepu16_epi32(narrow(low.v, bf16{}));
  const __m512i h = _mm512_cvtepu16_epi32(narrow(high.v, bf16{}));
  return {_mm512_castsi512_ps(_mm512_or_si512(l, _mm512_slli_epi32(h, 16)))};
}
#endif

}  // namespace compressc::COMPRESSC_ISA
