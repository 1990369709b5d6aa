// The kernels as plain C++ functions on raw pointers. No torch, no Python, no CUDA.
#pragma once

#include <cstdint>

#include "compressc/dtype.h"

namespace compressc {

enum class Direction : int { forward = 0, reverse = 1, jensen_shannon = 2 };

// scale * weight * (kl_share * T^2 * D(softmax(teacher / T), softmax(student / T))
//                   + (1 - kl_share) * cross entropy of softmax(student) and the label)
// for each row of raw logits, and its gradient with respect to the student's logits. D is KL(p || q),
// KL(q || p) or the Jensen-Shannon divergence of p (teacher) and q (student). Without labels there is
// no second term, whatever kl_share.
struct SoftmaxKl {
  const void* student;  // [rows, vocab], elements of a row contiguous
  const void* teacher;  // [rows, vocab], likewise
  const float* weight;  // [rows] or null for 1; a row of weight 0 is not read
  float* loss;          // [rows]; null: not wanted, where `total` is
  void* grad;           // [rows, vocab] contiguous, of the student's type; null: not wanted.
                        // May be `student` itself where that is contiguous.
  float* total;         // the sum of all losses; null: not wanted
  const std::int64_t* labels;  // [rows] or null; negative: this row has no label. `forward` only.
  std::int64_t rows, vocab;
  std::int64_t student_stride, teacher_stride;  // elements from one row to the next
  DType student_type, teacher_type;
  Direction direction;
  float temperature;  // > 0
  float scale;        // of every loss and gradient: 1 / rows for a mean
  float kl_share;        // share of the divergence where there are labels
  float smoothing;    // label smoothing
};

// Runs on at most `threads` OpenMP threads. Rows are independent: the result does not depend on them.
// False, and nothing done: a label is not below `vocab`.
bool softmax_kl(const SoftmaxKl& args, int threads);

// The same KL(p || q) with a teacher of whom only k logits are known, and the probability `tail` of
// all others together; the student's others are pooled likewise. Indices of a row are distinct.
struct TopkKl {
  const void* student;         // [rows, vocab], elements of a row contiguous
  const float* values;         // [rows, k] the teacher's logits
  const std::int64_t* indices;  // [rows, k]
  const float* tail;           // [rows], in [0, 1], at this temperature
  const float* weight;         // as above, like all that follows
  float* loss;
  void* grad;
  std::int64_t rows, vocab, k, student_stride;
  DType student_type;
  float temperature, scale;
};

// False, and nothing done: an index is not in [0, vocab).
bool topk_kl(const TopkKl& args, int threads);

// Multiplies row i of a contiguous [rows, columns] tensor by scale[i], in place.
void scale_rows(void* data, DType type, const float* scale, std::int64_t rows, std::int64_t columns,
                int threads);

// y = x W^T + bias, W int8 with one scale for each of its rows.
struct Int8Linear {
  const float* x;             // [rows, in]
  const std::int8_t* weight;  // [out, in]
  const float* scale;         // [out]
  const float* bias;          // [out] or null
  float* y;                   // [rows, out]
  std::int64_t rows, in, out;
};

void int8_linear(const Int8Linear& args, int threads);

// y = x v^T u^T + bias. All of one type, f32 or bf16, and contiguous. The product of rank r is rounded
// to that type, as between two layers.
struct LowRankLinear {
  const void* x;     // [rows, in]
  const void* v;     // [rank, in]
  const void* u;     // [out, rank]
  const void* bias;  // [out] or null
  void* y;           // [rows, out]
  std::int64_t rows, in, rank, out;
  DType type;
};

// False, and nothing done: not for this type with the instruction set in use. The order of every sum
// depends on the sizes alone, so the result does not depend on the threads.
bool lowrank_linear(const LowRankLinear& args, int threads);
bool has_lowrank_linear(DType type);

// The instruction set in use, "avx512", "avx2" or "portable", and the choice of another one for tests.
const char* instruction_set();
bool use_instruction_set(const char* name);  // false: unknown, or not of this machine

}  // namespace compressc
