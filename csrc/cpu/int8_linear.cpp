// int8_linear for one instruction set: tiles of W over all rows of x.
#include "compressc/int8_linear.h"

#include "isa_entries.h"

namespace compressc::COMPRESSC_ISA {

// Rows [begin, end) of W.
void int8_linear_rows(const Int8Linear& a, std::int64_t begin, std::int64_t end) {
  for (std::int64_t first = begin; first < end; first += kWeightRows) {
    const int rows_w = static_cast<int>(end - first < kWeightRows ? end - first : kWeightRows);
    std::int64_t i = 0;
    for (; i + 4 <= a.rows; i += 4) {
      int8_tile<4>(a, a.x + i * a.in, a.y + i * a.out, first, rows_w);
    }
    for (; i + 2 <= a.rows; i += 2) {
      int8_tile<2>(a, a.x + i * a.in, a.y + i * a.out, first, rows_w);
    }
    if (i < a.rows) int8_tile<1>(a, a.x + i * a.in, a.y + i * a.out, first, rows_w);
  }
}

}  // namespace compressc::COMPRESSC_ISA
