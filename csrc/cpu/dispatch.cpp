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

// Null: this type is not for the instruction set in use.
const LowRankKernel* lowrank_kernel(DType type) {
  if (type == DType::f32) return &current()->lowrank;
#if defined(COMPRESSC_AVX512_BF16)
  const bool pairs = __builtin_cpu_supports("avx512bf16") != 0;
  if (type == DType::bf16 && pairs && current() == &isa_avx512()) {
    return &avx512_bf16::lowrank_kernel();
  }
#endif
  return nullptr;
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

bool has_lowrank_linear(DType type) { return lowrank_kernel(type) != nullptr; }

bool lowrank_linear(const LowRankLinear& a, int threads) {
  const LowRankKernel* const kernel = lowrank_kernel(a.type);
  if (kernel == nullptr) return false;
  const std::int64_t most = kernel->block(a.rows), blocks = most > 0 ? (a.rows + most - 1) / most : 0;
  constexpr int kPerElement = 32;  // multiplications in the time that for_rows calls an element's
  const std::int64_t thin_row = most * a.in / kPerElement, out_row = most * a.rank / kPerElement;
  const std::int64_t memory = kernel->memory(a);
  const auto walk = [&](std::int64_t begin, std::int64_t end, const auto& body) {
    float* const own = thread_scratch(memory);
    while (begin < end) {
      const RowBlock block{begin, kernel->block(end - begin)};
      kernel->prepare(a, block, own);
      body(block, own);
      begin += block.rows;
    }
  };
  if (blocks >= 4 * threads || blocks % threads == 0) {  // every thread has as many as any other
    const std::int64_t work = a.rank * thin_row + a.out * out_row;
    for_rows(blocks, work, threads, [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t last = end * most < a.rows ? end * most : a.rows;
      walk(begin * most, last, [&](RowBlock block, float* own) {
        kernel->thin(a, block, own, 0, a.rank);
        kernel->out(a, block, own, 0, a.out);
      });
    });
    return true;
  }
  const auto in_strips = [&](std::int64_t rows, std::int64_t work, const auto& body) {
    const std::int64_t strips = (rows + kernel->strip - 1) / kernel->strip;
    for_rows(strips, work * kernel->strip, threads, [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t last = end * kernel->strip;
      body(begin * kernel->strip, last < rows ? last : rows);
    });
  };
  walk(0, a.rows, [&](RowBlock block, float* shared) {
    in_strips(a.rank, thin_row, [&](std::int64_t begin, std::int64_t end) {
      kernel->thin(a, block, shared, begin, end);
    });
    in_strips(a.out, out_row, [&](std::int64_t begin, std::int64_t end) {
      kernel->out(a, block, shared, begin, end);
    });
  });
  return true;
}

const char* instruction_set() { return current()->name; }

bool use_instruction_set(const char* name) {
  const Isa* isa = table(name);
  if (isa != nullptr) current() = isa;
  return isa != nullptr;
}

}  // namespace compressc
