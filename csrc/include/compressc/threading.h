// Which rows a thread takes, and its scratch memory.
#pragma once

#include <cstdint>

namespace compressc {

// Splits [0, rows) into one run of rows per thread and calls body(begin, end) on each; serial where
// the work is too small to pay for waking a thread. Exceptions must not leave the body.
template <typename Body>
void for_rows(std::int64_t rows, std::int64_t elements_per_row, int threads, const Body& body) {
  constexpr std::int64_t kWorthAThread = 16384;  // elements: about 10 microseconds
  const std::int64_t useful = rows * elements_per_row / kWorthAThread;
  std::int64_t team = useful < threads ? useful : threads;
  team = team < rows ? team : rows;
  if (team <= 1) {
    if (rows > 0) body(std::int64_t{0}, rows);
    return;
  }
#pragma omp parallel for num_threads(static_cast<int>(team)) schedule(static, 1)
  for (std::int64_t i = 0; i < team; ++i) body(rows * i / team, rows * (i + 1) / team);
}

// `floats` floats aligned to a cache line, this thread's own until its next call.
float* thread_scratch(std::int64_t floats);

}  // namespace compressc
