// The exponential of every loss: e^(x / T) for x <= 0. -inf and all results under 2^-126 give exactly 0,
// NaN stays NaN. Relative error below 1.5e-7, and one rounding of 1 / T or x / T as in any exponential
// of a float32. How depends on the instruction set.
#pragma once

#include "compressc/vec.h"

namespace compressc::COMPRESSC_ISA {

#if defined(COMPRESSC_ISA_AVX512)

// Bits of 2^(j / 32), less j << 18, which the steps below bring along.
alignas(64) inline constexpr std::uint32_t kRoots[32] = {
    0x3f800000, 0x3f7ecd87, 0x3f7daac3, 0x3f7c980f, 0x3f7b95c2, 0x3f7aa43a, 0x3f79c3d3, 0x3f78f4f0,
    0x3f7837f0, 0x3f778d3a, 0x3f76f532, 0x3f767043, 0x3f75fed7, 0x3f75a15b, 0x3f75583f, 0x3f7523f6,
    0x3f7504f3, 0x3f74fbaf, 0x3f7508a4, 0x3f752c4d, 0x3f75672a, 0x3f75b9be, 0x3f76248c, 0x3f76a81e,
    0x3f7744fd, 0x3f77fbb8, 0x3f78ccdf, 0x3f79b907, 0x3f7ac0c7, 0x3f7be4ba, 0x3f7d257d, 0x3f7e83b3,
};

// 2^(n + j/32 + f): 2^(j/32) out of two registers, 2^f by a parabola, n added to the exponent. A third
// fewer multiplications than a polynomial alone, and they are what a row of logits waits for.
struct Exp {
  __m512 scale, least, low, high;

  explicit Exp(float temperature) {
    const float factor = 1.44269504f / temperature;
    scale = _mm512_set1_ps(factor);
    least = _mm512_set1_ps(-126.0f / factor);
    low = _mm512_castsi512_ps(_mm512_load_si512(kRoots));
    high = _mm512_castsi512_ps(_mm512_load_si512(kRoots + 16));
  }

  Vec operator()(Vec x) const {
    const __mmask16 normal = _mm512_cmp_ps_mask(x.v, least, _CMP_NLT_UQ);  // NaN is not less than
    const __m512 magic = _mm512_set1_ps(393216.0f);  // 1.5 * 2^18: leaves 1/32 as the last bit
    const __m512 shifted = _mm512_fmadd_ps(x.v, scale, magic);
    const __m512i steps = _mm512_castps_si512(shifted);  // 32 n + j in the low bits
    const __m512 f = _mm512_fmsub_ps(x.v, scale, _mm512_sub_ps(shifted, magic));
    const __m512i root = _mm512_castps_si512(_mm512_permutex2var_ps(low, steps, high));
    const __m512 power = _mm512_castsi512_ps(_mm512_add_epi32(root, _mm512_slli_epi32(steps, 18)));
    // Minimax fit of 2^f - 1 on [-1/64, 1/64].
    const __m512 p = _mm512_fmadd_ps(f, _mm512_set1_ps(0.240226497f), _mm512_set1_ps(0.69315733f));
    return {_mm512_maskz_fmadd_ps(normal, power, _mm512_mul_ps(f, p), power)};
  }
};

#else

// 2^(n + f) by a polynomial in f.
struct Exp {
  Vec scale;

  explicit Exp(float temperature) : scale(set1(1.44269504f / temperature)) {}

  Vec operator()(Vec x) const {
    x = bounded(mul(x, scale));
    const Vec n = round_to_int(x);
    const Vec f = sub(x, n);
    // Minimax fit of 2^f on [-1/2, 1/2].
    Vec p = set1(1.53533620e-4f);
    p = fma(p, f, set1(1.33988739e-3f));
    p = fma(p, f, set1(9.61843692e-3f));
    p = fma(p, f, set1(5.55033237e-2f));
    p = fma(p, f, set1(2.40226477e-1f));
    p = fma(p, f, set1(6.93147182e-1f));
    p = fma(p, f, set1(1.0f));
    return times_power_of_two(p, n);
  }
};

#endif

}  // namespace compressc::COMPRESSC_ISA
