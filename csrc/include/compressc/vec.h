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
