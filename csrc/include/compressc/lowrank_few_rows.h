// Few rows of x by a weight: dot products along the elements of a row, as many at once as a vector
// has lanes, so that their sums are finished together.
#pragma once

#include "compressc/lowrank_linear.h"

namespace compressc::COMPRESSC_ISA {

// Rows of x that are multiplied so: lanes of a panel would be empty.
inline constexpr int kFewRows = Vec::width / 2;

// M rows of x by Vec::width / M rows of w, from `first` (less at the end): y[row][first...], with bias.
template <typename E, int M, typename T>
inline void dot_tile(const T* x, const T* w, std::int64_t inner, std::int64_t first, int count,
                     const T* bias, T* y, std::int64_t y_stride) {
  constexpr int W = Vec::width, N = W / M;
  Vec sum[W];
  for (Vec& s : sum) s = set1(0);
  const T* row[N];
  for (int j = 0; j < N; ++j) row[j] = w + (first + (j < count ? j : count - 1)) * inner;
  const auto step = [&](std::int64_t k, auto load_at) {
    Vec xi[M];
    for (int i = 0; i < M; ++i) xi[i] = load_at(x + i * inner + k);
    for (int j = 0; j < N; ++j) {
      const Vec wj = load_at(row[j] + k);
      for (int i = 0; i < M; ++i) sum[i * N + j] = E::multiply_add(xi[i], wj, sum[i * N + j]);
    }
  };
  constexpr int at_once = W * E::per_step;
  std::int64_t k = 0;
  for (; k + at_once <= inner; k += at_once) step(k, E::load_steps);
  if (k < inner) step(k, [&](const T* p) { return load_steps<E>(p, inner - k); });
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
  const auto part = [&](int first, auto m) {
    constexpr int M = decltype(m)::value, N = Vec::width / M;
    for (std::int64_t n = begin; n < end; n += N) {
      const int count = static_cast<int>(end - n < N ? end - n : N);
      dot_tile<E, M>(x + first * inner, w, inner, n, count, bias, y + first * y_stride, y_stride);
    }
  };
  int i = 0;
  for (; i + 4 <= rows; i += 4) part(i, std::integral_constant<int, 4>{});
  for (; i + 2 <= rows; i += 2) part(i, std::integral_constant<int, 2>{});
  if (i < rows) part(i, std::integral_constant<int, 1>{});
}

}  // namespace compressc::COMPRESSC_ISA
