"""Small ONNX models, and what ONNX Runtime computes with them as they are."""

import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def model(nodes, *, width=4, out=3, stored):
    """y [rows, out] of x [rows, width], in floats, with stored tensors by name."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["s77", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["s77", out])],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def result(made, x):
    """y of a well-formed model."""
    onnx.checker.check_model(made)
    options = onnxruntime.SessionOptions()
    # or it would quantize the float x of these small models by itself
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(made.SerializeToString(), options)
    return session.run(None, {"x": x})[0]
