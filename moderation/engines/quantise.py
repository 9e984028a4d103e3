"""int8 graphs made from a bundle's fp32 towers: data-free, the same bytes each time, for one engine each.

Weights of matrix products become int8, one scale per output channel; activations are quantised while the engine runs,
item by item, so that nothing is calibrated and one listing's numbers do not depend on another's. Convolutions stay
fp32: without calibration data int8 makes them slower in ONNX Runtime, and wrong. Importing this needs `onnx`.

I and O are the inputs and outputs of a matrix product.
"""

import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from moderation.engines.engine import EngineName

_MATRIX_PRODUCTS: Final = ["MatMul", "Gemm"]
_LARGEST: Final = 127
_SMALLEST_SCALE: Final = 1e-12


def quantise(source: Path, target: Path, engine: EngineName) -> int:
    """Write the int8 graph of `source` for one engine; return how many weights became int8.

    Args:
        source: fp32 graph.
        target: written whole; its bytes depend on the source and the versions of `onnx` and ONNX Runtime alone.
        engine: `onnxruntime-int8` or `openvino-int8`.
    """
    if engine == "onnxruntime-int8":
        model, count = _dynamic(source)
    else:
        model = onnx.load(source)
        count = _weights_to_int8(model.graph)
    target.write_bytes(model.SerializeToString(deterministic=True))
    return count


def _dynamic(source: Path) -> tuple[onnx.ModelProto, int]:
    """Return the graph with ONNX Runtime's own integer products, which quantise their inputs themselves."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(prefix="tidegate-int8-") as scratch:
        path = Path(scratch, "model.onnx")
        quantize_dynamic(
            source,
            path,
            op_types_to_quantize=_MATRIX_PRODUCTS,
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
        model = onnx.load(path)
    return model, sum(node.op_type == "MatMulInteger" for node in model.graph.node)


def _weights_to_int8(graph: onnx.GraphProto) -> int:
    """Put int8 weights and a DequantizeLinear in the place of fp32 ones; OpenVINO then multiplies in int8."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[Any] = []
    made: dict[str, str] = {}
    for node in graph.node:
        name = node.input[1] if node.op_type == "MatMul" else ""
        if name in weights and _is_matrix(weights[name]):
            if name not in made:
                made[name] = f"{name}_from_int8"
                nodes.append(_dequantise(graph, weights[name], made[name]))
            node.input[1] = made[name]
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    return len(made)


def _is_matrix(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2


def _dequantise(graph: onnx.GraphProto, tensor: onnx.TensorProto, output: str) -> onnx.NodeProto:
    weight_IO: npt.NDArray[np.float32] = numpy_helper.to_array(tensor)
    scale_O = np.maximum(np.abs(weight_IO).max(axis=0) / _LARGEST, _SMALLEST_SCALE)
    scale_O = scale_O.astype(np.float32)
    int8_IO = np.clip(np.rint(weight_IO / scale_O), -_LARGEST, _LARGEST).astype(np.int8)
    values = {"int8": int8_IO, "scale": scale_O, "zero": np.zeros(scale_O.shape, np.int8)}
    names = [f"{tensor.name}_{kind}" for kind in values]
    for name, array in zip(names, values.values(), strict=True):
        graph.initializer.append(numpy_helper.from_array(array, name))
    return helper.make_node("DequantizeLinear", names, [output], name=output, axis=1)
