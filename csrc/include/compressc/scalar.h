// Conversions of single elements in plain C++, for code without vector instructions.
// `static`: each translation unit keeps its own copy, whatever instruction set it is compiled for.
#pragma once

#include <cmath>
#include <cstring>

#include "compressc/dtype.h"

namespace compressc {

static inline float bits_to_float(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
static inline std::uint32_t float_to_bits(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
static inline float widen(float x) { return x; }
static inline float widen(bf16 x) { return bits_to_float(std::uint32_t{x.bits} << 16); }
static inline float widen(f16 x) {
  const std::uint32_t sign = std::uint32_t{x.bits & 0x8000u} << 16;
  const std::uint32_t exponent = (x.bits >> 10) & 31u, fraction = x.bits & 0x3ffu;
  if (exponent == 31) return bits_to_float(sign | 0x7f800000u | (fraction << 13));
  if (exponent != 0) return bits_to_float(sign | ((exponent + 112) << 23) | (fraction << 13));
  const float magnitude = static_cast<float>(fraction) * 5.9604645e-8f;  // 2^-24 per unit
  return sign != 0 ? -magnitude : magnitude;
}
static inline void narrow(float x, float& out) { out = x; }
// Round to nearest even; the added constant would turn some NaN into infinity, so those are kept.
static inline void narrow(float x, bf16& out) {
  const std::uint32_t bits = float_to_bits(x);
  out.bits = static_cast<std::uint16_t>(
      x != x ? 0x7fc0u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
static inline void narrow(float x, f16& out) {
  const std::uint32_t bits = float_to_bits(x), sign = (bits >> 16) & 0x8000u;
  const float magnitude = x < 0 ? -x : x;
  std::uint32_t half;
  if (x != x) {
    half = 0x7e00u;
  } else if (magnitude >= 65520.0f) {  // halfway to the first value that has no f16
    half = 0x7c00u;
  } else if (magnitude < 6.1035156e-5f) {  // subnormal: a multiple of 2^-24
    half = static_cast<std::uint32_t>(std::nearbyintf(magnitude * 16777216.0f));
  } else {
    const std::uint32_t m = bits & 0x7fffffffu;
    half = (m - (112u << 23) + 0xfffu + ((m >> 13) & 1u)) >> 13;
  }
  out.bits = static_cast<std::uint16_t>(sign | half);
}

}  // namespace compressc
