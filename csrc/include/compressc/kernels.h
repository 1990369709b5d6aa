// The kernels as plain C++ functions on raw pointers. No torch, no Python, no CUDA.
#pragma once

#include <cstdint>

#include "compressc/dtype.h"

namespace compressc {

// scale * weight * T^2 * KL(softmax(teacher / T) || softmax(student / T)) for each row of raw logits, and its
// gradient with respect to the student's logits.
struct SoftmaxKl {
  const void* student;        // [rows, vocab], elements of a row contiguous
  const void* teacher;        // [rows, vocab], likewise
  const float* weight;        // [rows] or null for 1; a row of weight 0 is not read
  float* loss;                // [rows]
  void* grad;                 // [rows, vocab] contiguous, of the student's type; null: not wanted.
                              // May be `student` itself where that is contiguous.
  std::int64_t rows, vocab;
  std::int64_t student_stride, teacher_stride;  // elements from one row to the next
  DType student_type, teacher_type;
  float temperature;  // > 0
  float scale;        // of every loss and gradient: 1 / rows for a mean
};

// Runs on at most `threads` OpenMP threads. Rows are independent: the result does not depend on them.
void softmax_kl(const SoftmaxKl& args, int threads);

// Multiplies row i of a contiguous [rows, columns] tensor by scale[i], in place.
void scale_rows(void* data, DType type, const float* scale, std::int64_t rows, std::int64_t columns,
                int threads);

// The instruction set in use, "avx512", "avx2" or "portable", and the choice of another one for tests.
const char* instruction_set();
bool use_instruction_set(const char* name);  // false: unknown, or not of this machine

}  // namespace compressc
