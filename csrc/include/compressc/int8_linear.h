// y = x W^T + bias with W of int8 rows and one scale each. Weights are widened in registers: for the few
// rows of x for which a matrix product waits on reading its weights, a quarter of the bytes.
#pragma once

#include "compressc/kernels.h"
#include "compressc/vec.h"

namespace compressc::COMPRESSC_ISA {

inline constexpr int kWeightRows = 4;

inline Vec load_int8_lanes(const std::int8_t* p, int lanes) {
  if (lanes == Vec::width) return load_int8(p);
  std::int8_t padded[Vec::width] = {};
  std::memcpy(padded, p, static_cast<std::size_t>(lanes));
  return load_int8(padded);
}

inline Vec load_x(const float* p, int lanes) {
  return lanes == Vec::width ? load(p) : load_partial(p, lanes, 0);
}

// kWeightRows rows of W, from `first` (less at the end of W), by kRows rows of x.
template <int kRows>
inline void int8_tile(const Int8Linear& a, const float* x, float* y, std::int64_t first, int rows_w) {
  Vec sum[kRows][kWeightRows];
  for (auto& row : sum) {
    for (Vec& s : row) s = set1(0);
  }
  const std::int8_t* w[kWeightRows];
  for (int j = 0; j < kWeightRows; ++j) {
    w[j] = a.weight + (first + (j < rows_w ? j : rows_w - 1)) * a.in;
  }
  const auto step = [&](std::int64_t k, int lanes) {
    Vec v[kWeightRows];
    for (int j = 0; j < kWeightRows; ++j) v[j] = load_int8_lanes(w[j] + k, lanes);
    for (int i = 0; i < kRows; ++i) {
      const Vec xi = load_x(x + i * a.in + k, lanes);
      for (int j = 0; j < kWeightRows; ++j) sum[i][j] = fma(xi, v[j], sum[i][j]);
    }
  };
  std::int64_t k = 0;
  for (; k + Vec::width <= a.in; k += Vec::width) step(k, Vec::width);
  if (k < a.in) step(k, static_cast<int>(a.in - k));
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < rows_w; ++j) {
      const float bias = a.bias == nullptr ? 0 : a.bias[first + j];
      y[i * a.out + first + j] = reduce_add(sum[i][j]) * a.scale[first + j] + bias;
    }
  }
}

}  // namespace compressc::COMPRESSC_ISA
