// Plain C++ for any processor: loops of eight that the compiler may vectorise. Included by vec.h alone.
#pragma once

#include <cmath>

#include "compressc/scalar.h"

namespace compressc::COMPRESSC_ISA {

struct Vec {
  static constexpr int width = 8;
  float v[8];
};

template <typename F>
inline Vec each(F f) {
  Vec out;
  for (int i = 0; i < Vec::width; ++i) out.v[i] = f(i);
  return out;
}
inline Vec set1(float x) {
  return each([=](int) { return x; });
}
template <typename T>
inline Vec load(const T* p) {
  return each([=](int i) { return widen(p[i]); });
}
// The first n lanes; the others hold `fill`.
template <typename T>
inline Vec load_partial(const T* p, int n, float fill) {
  return each([=](int i) { return i < n ? widen(p[i]) : fill; });
}
inline Vec load_int8(const std::int8_t* p) {
  return each([=](int i) { return static_cast<float>(p[i]); });
}
template <typename T>
inline void store_partial(T* p, Vec x, int n) {
  for (int i = 0; i < n; ++i) narrow(x.v[i], p[i]);
}
template <typename T>
inline void store(T* p, Vec x) {
  store_partial(p, x, Vec::width);
}
template <typename T>
inline void stream(T* p, Vec x) {
  store(p, x);
}
inline void stream_fence() {}

inline Vec add(Vec a, Vec b) {
  return each([&](int i) { return a.v[i] + b.v[i]; });
}
inline Vec sub(Vec a, Vec b) {
  return each([&](int i) { return a.v[i] - b.v[i]; });
}
inline Vec mul(Vec a, Vec b) {
  return each([&](int i) { return a.v[i] * b.v[i]; });
}
inline Vec div(Vec a, Vec b) {
  return each([&](int i) { return a.v[i] / b.v[i]; });
}
inline Vec fma(Vec a, Vec b, Vec c) {
  return each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
// max(a, b) is b where either is NaN.
inline Vec max(Vec a, Vec b) {
  return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
// p > 0 ? p * x + c : c. Where a probability is 0, x may be infinite and must not matter.
inline Vec fma_where_positive(Vec p, Vec x, Vec c) {
  return each([&](int i) { return p.v[i] > 0 ? p.v[i] * x.v[i] + c.v[i] : c.v[i]; });
}
// By adding and taking away 1.5 * 2^23: exact for |x| < 2^22, and it vectorises everywhere.
inline Vec round_to_int(Vec x) {
  return each([&](int i) { return (x.v[i] + 12582912.0f) - 12582912.0f; });
}
// The two ends of an exponential 2^x, x <= 0, around its polynomial: x bounded so that n is at least
// -127 (NaN passes, in this order), and p 2^n, exactly 0 for n = -127. A NaN is in p as well; it must
// not reach the conversion.
inline Vec bounded(Vec x) { return max(set1(-127.0f), x); }
inline Vec times_power_of_two(Vec p, Vec n) {
  return each([&](int i) {
    const float biased = n.v[i] >= -127.0f ? n.v[i] + 127.0f : 0.0f;
    return p.v[i] * bits_to_float(static_cast<std::uint32_t>(biased) << 23);
  });
}
inline float reduce_add(Vec x) {
  return ((x.v[0] + x.v[4]) + (x.v[1] + x.v[5])) + ((x.v[2] + x.v[6]) + (x.v[3] + x.v[7]));
}
inline float reduce_max(Vec x) {
  float m = x.v[0];
  for (int i = 1; i < Vec::width; ++i) m = x.v[i] > m ? x.v[i] : m;
  return m;
}

// Sums that a matrix product keeps in registers.
inline constexpr int kTileSums = 8;

// Lane i: lane i % N of x.
template <int N>
inline Vec repeat(Vec x) {
  return each([&](int i) { return x.v[i % N]; });
}
// Lane j of row i to lane i of row j.
inline void transpose(Vec (&t)[8]) {
  for (int i = 0; i < Vec::width; ++i) {
    for (int j = i + 1; j < Vec::width; ++j) {
      const float x = t[i].v[j];
      t[i].v[j] = t[j].v[i];
      t[j].v[i] = x;
    }
  }
}
// The sum of vector i in lane i.
inline Vec reduce_add_each(const Vec (&t)[8]) {
  return each([&](int i) { return reduce_add(t[i]); });
}

}  // namespace compressc::COMPRESSC_ISA
