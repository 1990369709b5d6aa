// The table of one instruction set's functions.
#include "isa_entries.h"

#define COMPRESSC_TEXT_OF(x) #x
#define COMPRESSC_TEXT(x) COMPRESSC_TEXT_OF(x)
#define COMPRESSC_JOIN_OF(a, b) a##b
#define COMPRESSC_JOIN(a, b) COMPRESSC_JOIN_OF(a, b)

namespace compressc {

const Isa& COMPRESSC_JOIN(isa_, COMPRESSC_ISA)() {
  namespace here = COMPRESSC_ISA;
  static const Isa table{COMPRESSC_TEXT(COMPRESSC_ISA), &here::softmax_kl_rows,
                         &here::softmax_kl_scratch,     &here::topk_kl_rows,
                         &here::topk_kl_scratch,        &here::scale_rows,
                         &here::int8_linear_rows,       here::lowrank_kernel()};
  return table;
}

}  // namespace compressc
