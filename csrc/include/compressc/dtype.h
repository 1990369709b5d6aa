// The element types a kernel reads and writes. Arithmetic is always float32.
#pragma once

#include <cstdint>
#include <cstring>

namespace compressc {

enum class DType : int { f32 = 0, bf16 = 1, f16 = 2 };

// Storage types: distinct from integers, so that overloads of load and store choose the conversion.
struct bf16 {
  std::uint16_t bits;
};
struct f16 {
  std::uint16_t bits;
};

}  // namespace compressc
