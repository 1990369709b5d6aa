// x v^T u^T + bias in one go, with the product of rank r kept in cache. No weight is repacked, because
// with few rows that costs as much as the products: instead the lanes of a vector are rows of x.
//
// A block of rows is transposed into a panel [step][lane], a step being what one instruction takes
// from an element's row: one float32, or two bfloat16. A product of the panel with rows of a weight
// (read in their own layout, broadcast) gives [row of weight][lane]: for v, the panel of the next.
#pragma once

#include <cstring>
#include <type_traits>

#include "compressc/kernels.h"
#include "compressc/vec.h"

namespace compressc::COMPRESSC_ISA {

inline constexpr int kPanelVectors = 2;  // vectors of rows of x in a block, at most
inline constexpr int kBlockRows = kPanelVectors * Vec::width;
inline constexpr int kStrip = 16;  // rows of a weight whose product is finished together
// Steps summed in one go. Sums of sums: an error that grows with the root of the length.
inline constexpr std::int64_t kSumSteps = 128;

// What differs by element: how many of them a lane holds, and how lanes are multiplied.
struct Float32 {
  using Element = float;
  static constexpr int per_step = 1;
  static Vec broadcast(const float* p) { return set1(*p); }
  static Vec broadcast_last(const float* p) { return set1(*p); }
  static Vec load_steps(const float* p) { return load(p); }
  static Vec multiply_add(Vec a, Vec b, Vec sum) { return fma(a, b, sum); }
};

#if defined(COMPRESSC_ISA_AVX512_BF16)
// Pairs of bfloat16, multiplied and added in float32. A vector holds the bits of a pair as a float.
struct BFloat16 {
  using Element = bf16;
  static constexpr int per_step = 2;
  static Vec broadcast(const bf16* p) {
    std::int32_t pair;
    std::memcpy(&pair, p, sizeof pair);
    return set1_bits(pair);
  }
  // The last of an odd number: behind it lies another row, or nothing.
  static Vec broadcast_last(const bf16* p) { return set1_bits(p->bits); }
  static Vec load_steps(const bf16* p) { return load_bits(p); }
  static Vec multiply_add(Vec a, Vec b, Vec sum) { return fma_pairs(a, b, sum); }
};
#endif

template <typename E>
inline std::int64_t steps_of(std::int64_t elements) {
  return (elements + E::per_step - 1) / E::per_step;
}

// Up to a vector of steps; what is missing is 0.
template <typename E>
inline Vec load_steps(const typename E::Element* p, std::int64_t elements) {
  if (elements >= Vec::width * E::per_step) return E::load_steps(p);
  typename E::Element padded[Vec::width * E::per_step] = {};
  std::memcpy(padded, p, static_cast<std::size_t>(elements) * sizeof *p);
  return E::load_steps(padded);
}

// `rows` rows of x as a panel [steps][R vectors]; lanes without a row are 0.
template <typename E, int R>
inline void transpose_rows(const typename E::Element* x, std::int64_t inner, int rows, float* panel) {
  constexpr int W = Vec::width;
  const std::int64_t steps = steps_of<E>(inner);
  for (std::int64_t k = 0; k < steps; k += W) {
    const int left = static_cast<int>(steps - k < W ? steps - k : W);
    for (int r = 0; r < R; ++r) {
      Vec t[W];
      for (int i = 0; i < W; ++i) {
        const std::int64_t row = r * W + i, at = k * E::per_step;
        t[i] = row < rows ? load_steps<E>(x + row * inner + at, inner - at) : set1(0);
      }
      transpose(t);
      float* const to = panel + (k * R + r) * W;
      if (left == W) {  // a number known to the compiler keeps all of t in registers
        for (int i = 0; i < W; ++i) store(to + i * R * W, t[i]);
      } else {
        for (int i = 0; i < left; ++i) store(to + i * R * W, t[i]);
      }
    }
  }
}

// N rows of w, `inner` elements each, by a panel: result [N][R vectors]. Not inlined: alone, the sums
// are what the compiler gives registers to.
template <typename E, int N, int R>
__attribute__((noinline)) void tile(const typename E::Element* w, std::int64_t inner, const float* panel,
                             float* result) {
  constexpr int W = Vec::width;
  const std::int64_t whole = inner / E::per_step;
  std::int64_t k = 0;
  bool first = true;
  do {
    const std::int64_t end = whole - k < kSumSteps ? whole : k + kSumSteps;
    Vec sum[N][R];
    for (int j = 0; j < N; ++j) {
      for (int r = 0; r < R; ++r) sum[j][r] = set1(0);
    }
    for (; k < end; ++k) {
      Vec x[R];
      for (int r = 0; r < R; ++r) x[r] = load(panel + (k * R + r) * W);
      for (int j = 0; j < N; ++j) {
        const Vec b = E::broadcast(w + j * inner + k * E::per_step);
        for (int r = 0; r < R; ++r) sum[j][r] = E::multiply_add(b, x[r], sum[j][r]);
      }
    }
    for (int j = 0; j < N; ++j) {
      for (int r = 0; r < R; ++r) {
        float* const to = result + (j * R + r) * W;
        store(to, first ? sum[j][r] : add(load(to), sum[j][r]));
      }
    }
    first = false;
  } while (k < whole);
  if (whole * E::per_step == inner) return;
  for (int j = 0; j < N; ++j) {
    const Vec b = E::broadcast_last(w + (j + 1) * inner - 1);
    for (int r = 0; r < R; ++r) {
      float* const to = result + (j * R + r) * W;
      store(to, E::multiply_add(b, load(panel + (k * R + r) * W), load(to)));
    }
  }
}

// `count` rows of w by a panel: result [count][R vectors].
template <typename E, int R>
inline void panel_product(const typename E::Element* w, std::int64_t inner, int count,
                          const float* panel, float* result) {
  // No more rows than a set of the first cache has ways: rows whose distance is a power of two would
  // push each other out.
  constexpr int row = R * Vec::width, N = kTileSums / R < 8 ? kTileSums / R : 8;
  int j = 0;
  for (; j + N <= count; j += N) {
    tile<E, N, R>(w + j * inner, inner, panel, result + j * row);
  }
  for (; j + 2 <= count; j += 2) tile<E, 2, R>(w + j * inner, inner, panel, result + j * row);
  if (j < count) tile<E, 1, R>(w + j * inner, inner, panel, result + j * row);
}

// The same, `count` at most kStrip, as a panel for the next product.
template <int R>
inline void next_panel(Float32, const float* w, std::int64_t inner, int count, const float* panel,
                       float* next) {
  panel_product<Float32, R>(w, inner, count, panel, next);
}

#if defined(COMPRESSC_ISA_AVX512_BF16)
template <int R>
inline void next_panel(BFloat16, const bf16* w, std::int64_t inner, int count, const float* panel,
                       float* next) {
  constexpr int row = R * Vec::width;
  alignas(64) float strip[kStrip * row];
  panel_product<BFloat16, R>(w, inner, count, panel, strip);
  for (int n = 0; n < count; n += 2) {
    for (int i = 0; i < row; i += Vec::width) {
      const Vec low = load(strip + n * row + i);
      const Vec high = n + 1 < count ? load(strip + (n + 1) * row + i) : set1(0);
      store(next + n / 2 * row + i, make_pairs(low, high));
    }
  }
}
#endif

// A strip [kStrip][R vectors] to y[row][0, count), with bias.
template <typename T, int R>
inline void store_transposed(const float* strip, int count, const T* bias, int rows, T* y,
                             std::int64_t out) {
  constexpr int W = Vec::width;
  for (int n = 0; n < count; n += W) {
    const int lanes = count - n < W ? count - n : W;
    const Vec b = bias == nullptr ? set1(0) : load_partial(bias + n, lanes, 0);
    for (int r = 0; r < R; ++r) {
      Vec t[W];
      for (int i = 0; i < W; ++i) t[i] = load(strip + ((n + i) * R + r) * W);
      transpose(t);
      T* const to = y + r * W * out + n;
      const int here = rows - r * W;
      if (lanes == W && here >= W) {
        for (int i = 0; i < W; ++i) store(to + i * out, add(t[i], b));
      } else {
        for (int i = 0; i < W && i < here; ++i) store_partial(to + i * out, add(t[i], b), lanes);
      }
    }
  }
}

}  // namespace compressc::COMPRESSC_ISA
