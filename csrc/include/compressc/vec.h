// One vector of float32 per instruction set, chosen when a source is compiled, not when it runs.
//
// Every kernel source is compiled once per instruction set with COMPRESSC_ISA naming it; everything
// it instantiates lives in the namespace of that name. That matters: an inline function shared by
// two such objects could be linked in its AVX-512 form and run on a machine without it.
#pragma once

#ifndef COMPRESSC_ISA
#error "compile with -DCOMPRESSC_ISA=avx512, avx2 or portable"
#endif

#if defined(COMPRESSC_ISA_AVX512)
#include "compressc/vec_avx512.h"
#elif defined(COMPRESSC_ISA_AVX2)
#include "compressc/vec_avx2.h"
#else
#include "compressc/vec_portable.h"
#endif

#include <cmath>

namespace compressc::COMPRESSC_ISA {

// e^(x / T) for x <= 0; -inf and all results under 2^-126 give exactly 0, NaN stays NaN. Relative
// error below 1e-7 and one rounding of x / T, as in any exponential of a float32.
struct Exp {
  Vec scale;

  explicit Exp(float temperature) : scale(set1(1.44269504f / temperature)) {}

  Vec operator()(Vec x) const {
    x = bounded(mul(x, scale));
    const Vec n = round_to_int(x);
    const Vec f = sub(x, n);
    // Minimax fit of 2^f on [-1/2, 1/2].
    Vec p = set1(1.53533620e-4f);
    p = fma(p, f, set1(1.33988739e-3f));
    p = fma(p, f, set1(9.61843692e-3f));
    p = fma(p, f, set1(5.55033237e-2f));
    p = fma(p, f, set1(2.40226477e-1f));
    p = fma(p, f, set1(6.93147182e-1f));
    p = fma(p, f, set1(1.0f));
    return times_power_of_two(p, n, x);
  }
};

}  // namespace compressc::COMPRESSC_ISA
