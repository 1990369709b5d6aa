"""int8 quantization after training, as a pass."""

from compressc_quant.quant import Quant

__all__ = ["Quant"]
