// lowrank_linear for one instruction set: the steps of one block of rows.
#include "compressc/lowrank_linear.h"

#include "compressc/lowrank_few_rows.h"
#include "isa_entries.h"

namespace compressc::COMPRESSC_ISA {
namespace {

// Where a block keeps its panels, in floats.
template <typename E>
struct Panels {
  float* x;     // [steps of in][vectors]
  float* thin;  // [steps of r][vectors]; few rows: [rows][r] elements

  Panels(const LowRankLinear& a, float* memory)
      : x(memory), thin(memory + steps_of<E>(a.in) * kBlockRows) {}
};

int block(std::int64_t rows) {
  if (rows >= kBlockRows) return kBlockRows;
  const bool one_and_few = rows > Vec::width && rows <= Vec::width + kFewRows;
  return one_and_few ? Vec::width : static_cast<int>(rows);
}

template <typename E>
std::int64_t memory(const LowRankLinear& a) {
  return (steps_of<E>(a.in) + steps_of<E>(a.rank)) * kBlockRows;
}

// f with the number of vectors that `rows` rows fill.
template <typename F>
void with_vectors(int rows, const F& f) {
  static_assert(kPanelVectors == 2);
  if (rows <= Vec::width) return f(std::integral_constant<int, 1>{});
  return f(std::integral_constant<int, 2>{});
}

template <typename E>
void prepare(const LowRankLinear& a, RowBlock block, float* memory) {
  using T = typename E::Element;
  if (block.rows <= kFewRows) return;
  const T* x = static_cast<const T*>(a.x) + block.first * a.in;
  with_vectors(block.rows, [&](auto r) {
    transpose_rows<E, decltype(r)::value>(x, a.in, block.rows, Panels<E>(a, memory).x);
  });
}

// Rows of v [begin, end): the product of rank r.
template <typename E>
void thin(const LowRankLinear& a, RowBlock block, float* memory, std::int64_t begin, std::int64_t end) {
  using T = typename E::Element;
  const Panels<E> panels(a, memory);
  const T* v = static_cast<const T*>(a.v);
  if (block.rows <= kFewRows) {
    const T* x = static_cast<const T*>(a.x) + block.first * a.in;
    T* const to = reinterpret_cast<T*>(panels.thin);
    return dots<E, T>(x, a.in, block.rows, v, begin, end, nullptr, to, a.rank);
  }
  with_vectors(block.rows, [&](auto r) {
    constexpr int R = decltype(r)::value;
    for (std::int64_t n = begin; n < end; n += kStrip) {
      const int count = static_cast<int>(end - n < kStrip ? end - n : kStrip);
      float* const to = panels.thin + n / E::per_step * R * Vec::width;
      next_panel<R>(E{}, v + n * a.in, a.in, count, panels.x, to);
    }
  });
}

// Rows of u [begin, end): columns of y.
template <typename E>
void out(const LowRankLinear& a, RowBlock block, float* memory, std::int64_t begin, std::int64_t end) {
  using T = typename E::Element;
  const Panels<E> panels(a, memory);
  const T* u = static_cast<const T*>(a.u);
  const T* bias = static_cast<const T*>(a.bias);
  T* const y = static_cast<T*>(a.y) + block.first * a.out;
  if (block.rows <= kFewRows) {
    const T* x = reinterpret_cast<const T*>(panels.thin);
    return dots<E, T>(x, a.rank, block.rows, u, begin, end, bias, y, a.out);
  }
  with_vectors(block.rows, [&](auto r) {
    constexpr int R = decltype(r)::value;
    alignas(64) float strip[kStrip * R * Vec::width];
    for (std::int64_t n = begin; n < end; n += kStrip) {
      const int count = static_cast<int>(end - n < kStrip ? end - n : kStrip);
      panel_product<E, R>(u + n * a.rank, a.rank, count, panels.thin, strip);
      const T* const b = bias == nullptr ? nullptr : bias + n;
      store_transposed<T, R>(strip, count, b, block.rows, y + n, a.out);
    }
  });
}

}  // namespace

const LowRankKernel& lowrank_kernel() {
#if defined(COMPRESSC_ISA_AVX512_BF16)
  using E = BFloat16;
#else
  using E = Float32;
#endif
  static const LowRankKernel kernel{kStrip, &block, &memory<E>, &prepare<E>, &thin<E>, &out<E>};
  return kernel;
}

}  // namespace compressc::COMPRESSC_ISA
