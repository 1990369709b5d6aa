// softmax_kl for a GPU: one block a row, its sums by an online softmax of both sides, then the gradient.
//
// The formulas are those of the CPU's csrc/include/compressc/softmax_kl.h. With shifted logits,
// d = (t - m_t) - (s - m_s),
//   KL(p || q) = sum(e_t d) / (T z_t) + log(z_s / z_t)
//   gradient of T^2 KL = T (e_s / z_s - e_t / z_t)
// and z_s - z_t is summed element by element, so that a small divergence keeps its digits.
#pragma once

#include "row.h"

namespace compressc::cuda {

enum class Loss { forward, reverse, jensen_shannon, with_labels };

// Sums over what one thread (then the block) has seen of a row, relative to the maxima.
struct Sums {
  float m_s = -INFINITY, m_t = -INFINITY;
  float z_s = 0, z_t = 0;
  float excess = 0;  // z_s - z_t
  float dot = 0;     // of e_t d, or of -e_s d for KL(q || p)
  float z_1 = 0;     // of the student at temperature 1
};

// The exponents' factors: log2(e) / T, and log2(e) for the cross-entropy's.
struct Slope {
  float at_t, at_1;
};

// Makes the sums relative to higher maxima.
template <Loss kLoss>
__device__ __forceinline__ void raise(Sums& r, float m_s, float m_t, const Slope& k) {
  const float from_s = finite_or_zero(r.m_s), from_t = finite_or_zero(r.m_t);
  const float to_s = finite_or_zero(m_s), to_t = finite_or_zero(m_t);
  const float f_s = exp2f((r.m_s - to_s) * k.at_t), f_t = exp2f((r.m_t - to_t) * k.at_t);
  const float moved = (from_t - to_t) - (from_s - to_s);  // how much d has grown
  // Without mass there is nothing to move, and d may be infinite.
  if (kLoss == Loss::reverse) {
    r.dot = f_s > 0 ? f_s * (r.dot - r.z_s * moved) : 0.0f;
  } else {
    r.dot = f_t > 0 ? f_t * (r.dot + r.z_t * moved) : 0.0f;
  }
  r.excess = f_t * r.excess + (f_s - f_t) * r.z_s;
  r.z_s *= f_s;
  r.z_t *= f_t;
  if (kLoss == Loss::with_labels) r.z_1 *= exp2f((r.m_s - to_s) * k.at_1);
  r.m_s = m_s;
  r.m_t = m_t;
}

template <Loss kLoss>
__device__ __forceinline__ void add_chunk(Sums& r, const float (&s)[kChunk],
                                          const float (&t)[kChunk], const Slope& k) {
  float m_s = r.m_s, m_t = r.m_t;
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    m_s = fmaxf(m_s, s[i]);
    m_t = fmaxf(m_t, t[i]);
  }
  if (m_s > r.m_s || m_t > r.m_t) raise<kLoss>(r, m_s, m_t, k);
  const float shift_s = finite_or_zero(m_s), shift_t = finite_or_zero(m_t);
  float z_s = 0, z_t = 0, excess = 0, dot = 0, z_1 = 0;  // summed first: a long sum rounds more
#pragma unroll
  for (int i = 0; i < kChunk; ++i) {
    const float x_s = s[i] - shift_s, x_t = t[i] - shift_t;
    const float e_s = exp2f(x_s * k.at_t), e_t = exp2f(x_t * k.at_t);
    z_s += e_s;
    z_t += e_t;
    excess += e_s - e_t;
    if (kLoss == Loss::reverse) {
      if (e_s > 0) dot += e_s * (x_s - x_t);
    } else if (kLoss != Loss::jensen_shannon) {
      if (e_t > 0) dot += e_t * (x_t - x_s);
    }
    if (kLoss == Loss::with_labels) z_1 += k.at_t == k.at_1 ? e_s : exp2f(x_s * k.at_1);
  }
  r.z_s += z_s;
  r.z_t += z_t;
  r.excess += excess;
  r.dot += dot;
  r.z_1 += z_1;
}

// The sums of the whole row, in every thread.
template <Loss kLoss, DType kStudent>
__device__ __forceinline__ Sums row_sums(const Row& row, const Slope& k) {
  Sums r;
  each_chunk<kStudent, true>(row, [&](int, int, const float(&s)[kChunk], const float(&t)[kChunk]) {
    add_chunk<kLoss>(r, s, t, k);
  });
  float maxima[2] = {r.m_s, r.m_t};
  block_reduce<Max>(maxima);
  raise<kLoss>(r, maxima[0], maxima[1], k);
  float sums[5] = {r.z_s, r.z_t, r.excess, r.dot, r.z_1};
  block_reduce<Sum>(sums);
  r.z_s = sums[0];
  r.z_t = sums[1];
  r.excess = sums[2];
  r.dot = sums[3];
  r.z_1 = sums[4];
  return r;
}

// A NaN anywhere must come out, so only true zeros count as masked.
__device__ __forceinline__ bool masked(const Sums& r) {
  return (r.m_s == -INFINITY && r.z_s == 0) || (r.m_t == -INFINITY && r.z_t == 0);
}

// log(z_s / z_t): near 1 from the difference, which has more digits than the quotient.
__device__ __forceinline__ float log_ratio(const Sums& r) {
  const float u = r.excess / r.z_t;
  return u > -0.5f && u < 1.0f ? log1pf(u) : logf(r.z_s) - logf(r.z_t);
}

// log(q / p) of one element, from shifted logits.
__device__ __forceinline__ float log_odds(float x_s, float x_t, float inverse_t, float ratio) {
  return (x_s - x_t) * inverse_t - ratio;
}

struct TermAndSlope {
  float term, slope;
};

// With m = (p + q) / 2 and l = log(q / p): log(q / m) = log 2 - log(1 + e^-l), and p's with -l.
__device__ __forceinline__ TermAndSlope jensen_shannon(float p, float q, float l) {
  const float log2 = 0.693147181f, bend = log1pf(expf(-fabsf(l)));
  const float of_q = log2 - (fmaxf(-l, 0.0f) + bend), of_p = log2 - (fmaxf(l, 0.0f) + bend);
  const float term = (p > 0 ? p * of_p : 0.0f) + (q > 0 ? q * of_q : 0.0f);
  return {term / 2, of_q / 2};
}

}  // namespace compressc::cuda
