// The functions that each instruction set defines, declared in the namespace of that set.
#pragma once

#include "compressc/isa.h"
#include "compressc/softmax_kl.h"

namespace compressc::COMPRESSC_ISA {

void softmax_kl_rows(const SoftmaxKl& a, std::int64_t begin, std::int64_t end, float* scratch);
void divergence_rows(const SoftmaxKl& a, std::int64_t begin, std::int64_t end, const Scratch& w);
std::int64_t softmax_kl_scratch(std::int64_t vocab);
void topk_kl_rows(const TopkKl& a, std::int64_t begin, std::int64_t end, float* scratch);
std::int64_t topk_kl_scratch(std::int64_t vocab, std::int64_t k);
void scale_rows(void* data, DType type, const float* scale, std::int64_t begin, std::int64_t end,
                std::int64_t columns);
void int8_linear_rows(const Int8Linear& a, std::int64_t begin, std::int64_t end);
const LowRankKernel& lowrank_kernel();

}  // namespace compressc::COMPRESSC_ISA
