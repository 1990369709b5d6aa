"""What a model is fed: arguments of `forward`, their descriptions, and their open dimensions."""

from compressc.frontend.inputs.arguments import Arguments, Example, arguments_of, tensors_of
from compressc.frontend.inputs.specs import (
    ConstantSpec,
    InputSpec,
    check_inputs,
    make_example,
    open_sizes,
    parse_input,
    place_inputs,
)

__all__ = [
    "Arguments",
    "ConstantSpec",
    "Example",
    "InputSpec",
    "arguments_of",
    "check_inputs",
    "make_example",
    "open_sizes",
    "parse_input",
    "place_inputs",
    "tensors_of",
]
