"""The graph IR: one ordered DAG of ops, its text form, its verifier and its files."""

from compressc.ir.bundle import graph_hash, load_bundle, save_bundle
from compressc.ir.deriving import derive_types, retype
from compressc.ir.factored import fuse_factored
from compressc.ir.graph import Graph, dimension_symbols, open_dimensions
from compressc.ir.layer_building import fit_attributes, layer_tensors
from compressc.ir.layers import LAYERS, NORMS, PRODUCTS, LayerKind, Role, Tensor, register_layer
from compressc.ir.lowering import lower, module_names
from compressc.ir.ops import Op, Ref, layer_attributes
from compressc.ir.parser import parse_graph
from compressc.ir.printer import op_text, print_graph
from compressc.ir.quantized import QUANTIZED
from compressc.ir.quantized_recurrent import QUANTIZED_RECURRENT
from compressc.ir.running import largest_error, random_inputs, random_weights, run_graph
from compressc.ir.types import TensorType, TupleType, evaluate, parse_type, symbol
from compressc.ir.verify import check_finite, check_structure, verify

__all__ = [
    "LAYERS",
    "NORMS",
    "PRODUCTS",
    "QUANTIZED",
    "QUANTIZED_RECURRENT",
    "Graph",
    "LayerKind",
    "Op",
    "Ref",
    "Role",
    "Tensor",
    "TensorType",
    "TupleType",
    "check_finite",
    "check_structure",
    "derive_types",
    "dimension_symbols",
    "evaluate",
    "fit_attributes",
    "fuse_factored",
    "graph_hash",
    "largest_error",
    "layer_attributes",
    "layer_tensors",
    "load_bundle",
    "lower",
    "module_names",
    "op_text",
    "open_dimensions",
    "parse_graph",
    "parse_type",
    "print_graph",
    "random_inputs",
    "random_weights",
    "register_layer",
    "retype",
    "run_graph",
    "save_bundle",
    "symbol",
    "verify",
]
