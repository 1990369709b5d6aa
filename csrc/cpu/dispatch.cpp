// Chooses the instruction set when the program runs, and spreads rows over threads.
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "compressc/isa.h"
#include "compressc/kernels.h"
#include "compressc/threading.h"

namespace compressc {
namespace {

bool runs_here(const char* name) {
#if defined(COMPRESSC_X86)
  if (std::strcmp(name, "avx512") == 0) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
  if (std::strcmp(name, "avx2") == 0) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
  }
#endif
  return std::strcmp(name, "portable") == 0;
}

const Isa* table(const char* name) {
  if (!runs_here(name)) return nullptr;
#if defined(COMPRESSC_X86)
  if (std::strcmp(name, "avx512") == 0) return &isa_avx512();
  if (std::strcmp(name, "avx2") == 0) return &isa_avx2();
#endif
  return &isa_portable();
}

const Isa* best() {
  if (const Isa* isa = table("avx512")) return isa;
  if (const Isa* isa = table("avx2")) return isa;
  return table("portable");
}

const Isa*& current() {
  static const Isa* isa = best();
  return isa;
}

struct Freed {
  void operator()(float* p) const { std::free(p); }
};

}  // namespace

float* thread_scratch(std::int64_t floats) {
  thread_local std::unique_ptr<float, Freed> memory;
  thread_local std::int64_t capacity = 0;
  if (floats > capacity) {
    memory.reset();
    const auto bytes = static_cast<std::size_t>((floats + 15) / 16 * 64);
    memory.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
    if (memory == nullptr) std::abort();  // inside a parallel region nothing may be thrown
    capacity = floats;
  }
  return memory.get();
}

bool softmax_kl(const SoftmaxKl& args, int threads) {
  SoftmaxKl a = args;
  std::unique_ptr<float, Freed> losses;
  if (a.loss == nullptr) {
    const auto bytes = static_cast<std::size_t>(a.rows < 1 ? 1 : a.rows) * sizeof(float);
    losses.reset(static_cast<float*>(std::malloc(bytes)));
    if (losses == nullptr) throw std::bad_alloc();
    a.loss = losses.get();
  }
  for (std::int64_t i = 0; a.labels != nullptr && i < a.rows; ++i) {
    if (a.labels[i] >= a.vocab) return false;
  }
  const Isa& isa = *current();
  const std::int64_t scratch = isa.softmax_kl_scratch(a.vocab);
  for_rows(a.rows, a.vocab, threads, [&](std::int64_t begin, std::int64_t end) {
    isa.softmax_kl_rows(a, begin, end, thread_scratch(scratch));
  });
  if (a.total != nullptr) {
    double sum = 0;
    for (std::int64_t i = 0; i < a.rows; ++i) sum += a.loss[i];
    *a.total = static_cast<float>(sum);
  }
  return true;
}

bool topk_kl(const TopkKl& a, int threads) {
  for (std::int64_t i = 0; i < a.rows * a.k; ++i) {
    if (a.indices[i] < 0 || a.indices[i] >= a.vocab) return false;
  }
  const Isa& isa = *current();
  const std::int64_t scratch = isa.topk_kl_scratch(a.vocab, a.k);
  for_rows(a.rows, a.vocab, threads, [&](std::int64_t begin, std::int64_t end) {
    isa.topk_kl_rows(a, begin, end, thread_scratch(scratch));
  });
  return true;
}

void scale_rows(void* data, DType type, const float* scale, std::int64_t rows, std::int64_t columns,
                int threads) {
  const Isa& isa = *current();
  for_rows(rows, columns, threads, [&](std::int64_t begin, std::int64_t end) {
    isa.scale_rows(data, type, scale, begin, end, columns);
  });
}

void int8_linear(const Int8Linear& a, int threads) {
  const Isa& isa = *current();
  for_rows(a.out, a.rows * a.in, threads, [&](std::int64_t begin, std::int64_t end) {
    isa.int8_linear_rows(a, begin, end);
  });
}

const char* instruction_set() { return current()->name; }

bool use_instruction_set(const char* name) {
  const Isa* isa = table(name);
  if (isa != nullptr) current() = isa;
  return isa != nullptr;
}

}  // namespace compressc
