"""Running nncf on a traced graph: no noise, its errors made ours."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

from compressc.errors import CompresscError, first_line
from compressc.quiet import quiet
from compressc_quant.sparing import sparing

#: nncf would store the gains of these in int8: they get less accurate, and no runtime any faster.
_NORMS = ("layer_norm", "rms_norm", "group_norm", "batch_norm")


@dataclass(frozen=True)
class Settings:
    """What nncf is told; the options of the pass with `auto` decided."""

    symmetric: bool
    transformer: bool
    smooth: bool
    half_range: bool = False


def observe(
    module: fx.GraphModule, batches: Sequence[tuple[torch.Tensor, ...]], settings: Settings
) -> fx.GraphModule:
    """nncf's own quantized module: int8 weights, quantize/dequantize pairs on activations.

    Args:
        module: ATen calls at fixed sizes; not changed.
        batches: calibration inputs of exactly these sizes.
        settings: see `Settings`.

    Raises:
        CompresscError: CC601 where nncf fails.
    """
    with quiet():
        import nncf
        from nncf.quantization.advanced_parameters import OverflowFix, QuantizationParameters

        preset = nncf.QuantizationPreset
        # a scale per channel on a depthwise convolution's input has no kernel in ONNX Runtime
        per_tensor = QuantizationParameters(per_channel=False)
        advanced = nncf.AdvancedQuantizationParameters(
            disable_bias_correction=True,  # ours is in `bias`
            activations_quantization_params=per_tensor,
        )
        advanced.overflow_fix = OverflowFix.ENABLE if settings.half_range else OverflowFix.DISABLE
        if not settings.smooth:  # a negative alpha turns it off
            advanced.smooth_quant_alphas = nncf.AdvancedSmoothQuantParameters(-1, -1)
        items = [batch[0] if len(batch) == 1 else batch for batch in batches]
        try:
            with sparing():
                result = nncf.quantize(
                    module,
                    nncf.Dataset(items),
                    preset=preset.PERFORMANCE if settings.symmetric else preset.MIXED,
                    target_device=nncf.TargetDevice.CPU,
                    subset_size=len(items),
                    model_type=nncf.ModelType.TRANSFORMER if settings.transformer else None,
                    ignored_scope=nncf.IgnoredScope(types=list(_NORMS), validate=False),
                    advanced_parameters=advanced,
                )
        except Exception as error:  # a library's failure, of whatever type, named as its own
            raise CompresscError(
                "CC601",
                "nncf could not quantize the graph",
                got=first_line(error),
                hint="leave quant out, or report the model",
            ) from error
    assert isinstance(result, fx.GraphModule)
    _check_scales(result)
    return result


def _check_scales(module: fx.GraphModule) -> None:
    """A value that is infinite or NaN somewhere has no range: the calls that read it are named."""
    for node in module.graph.nodes:
        if node.op != "call_function" or ".quantize_per_tensor" not in str(node.target):
            continue
        scale = node.args[1]
        if isinstance(scale, fx.Node):
            scale = float(operator.attrgetter(str(scale.target))(module))
        if not 0 < scale < math.inf:
            readers = {user.name for dequantized in node.users for user in dequantized.users}
            raise CompresscError(
                "CC601",
                "values that nncf quantizes must be finite",
                got=f"a scale of {scale} in front of {', '.join(sorted(readers))}",
            )
