// Few rows of x by a weight: dot products along the elements of a row, as many at once as a vector
// has lanes, so that their sums are finished together.
#pragma once

#include "compressc/lowrank_linear.h"

namespace compressc::COMPRESSC_ISA {

// Rows of x that are multiplied so: lanes of a panel would be empty.
inline constexpr int kFewRows = Vec::width / 2;

// sum[i * N + j] += a[i] * b[j] in every lane.
template <typename E, int M, int N>
inline void multiply_add_all(const Vec (&a)[M], const Vec (&b)[N], Vec (&sum)[M * N]) {
  for (int j = 0; j < N; ++j) {
    for (int i = 0; i < M; ++i) sum[i * N + j] = E::multiply_add(a[i], b[j], sum[i * N + j]);
  }
}

// M rows of x by Vec::width / M rows of w, from `first` (less at the end): y[row][first...], with bias.
// Not inlined: alone, the sums are what the compiler gives registers to.
template <typename E, int M, typename T>
__attribute__((noinline)) void dot_tile(const T* x, const T* w, std::int64_t inner,
                                        std::int64_t first, int count, const T* bias, T* y,
                                        std::int64_t y_stride) {
  constexpr int W = Vec::width, N = W / M, at_once = W * E::per_step;
  const T* row[N];
  for (int j = 0; j < N; ++j) row[j] = w + (first + (j < count ? j : count - 1)) * inner;
  Vec a[M], b[N], sum[W];
#pragma GCC unroll 16  // or the compiler makes a memset of it, and keeps the sums in memory
  for (int i = 0; i < W; ++i) sum[i] = set1(0);
  std::int64_t k = 0;
  for (; k + at_once <= inner; k += at_once) {
    for (int i = 0; i < M; ++i) a[i] = E::load_steps(x + i * inner + k);
    for (int j = 0; j < N; ++j) b[j] = E::load_steps(row[j] + k);
    multiply_add_all<E>(a, b, sum);
  }
  if (k < inner) {
    for (int i = 0; i < M; ++i) a[i] = load_steps<E>(x + i * inner + k, inner - k);
    for (int j = 0; j < N; ++j) b[j] = load_steps<E>(row[j] + k, inner - k);
    multiply_add_all<E>(a, b, sum);
  }
  Vec result = reduce_add_each(sum);
  if (bias != nullptr) result = add(result, repeat<N>(load_partial(bias + first, count, 0)));
  T lanes[W];
  store(lanes, result);
  for (int i = 0; i < M; ++i) {
    T* const to = y + i * y_stride + first;
    if (count == N) {
      std::memcpy(to, lanes + i * N, N * sizeof(T));  // of a size that spares a call
    } else {
      std::memcpy(to, lanes + i * N, static_cast<std::size_t>(count) * sizeof(T));
    }
  }
}

// y[row][begin, end) of `rows` rows.
template <typename E, typename T>
inline void dots(const T* x, std::int64_t inner, int rows, const T* w, std::int64_t begin,
                 std::int64_t end, const T* bias, T* y, std::int64_t y_stride) {
  for (std::int64_t strip = begin; strip < end; strip += kStrip) {  // of w: all rows of x in turn
    const std::int64_t last = end - strip < kStrip ? end : strip + kStrip;
    const auto part = [&](int first, auto m) {
      constexpr int M = decltype(m)::value, N = Vec::width / M;
      for (std::int64_t n = strip; n < last; n += N) {
        const int count = static_cast<int>(last - n < N ? last - n : N);
        dot_tile<E, M>(x + first * inner, w, inner, n, count, bias, y + first * y_stride, y_stride);
      }
    };
    int i = 0;
    for (; i + 4 <= rows; i += 4) part(i, std::integral_constant<int, 4>{});
    for (; i + 2 <= rows; i += 2) part(i, std::integral_constant<int, 2>{});
    if (i < rows) part(i, std::integral_constant<int, 1>{});
  }
}

}  // namespace compressc::COMPRESSC_ISA
