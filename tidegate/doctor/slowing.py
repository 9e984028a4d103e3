"""A heavy but equivalent text tower: the same numbers, and for some texts much later."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from moderation.reading import TEXT_FOLDER

_SIDE: Final = 1_024
_PRODUCTS: Final = 45
_ONE_IN: Final = 40
"""Only texts whose token ids add up to a multiple of it are slow: a tail, as slow models have."""


def slower(parts: Path) -> None:
    """Change the text tower of an unpacked bundle in place."""
    path = parts / TEXT_FOLDER / "model.onnx"
    model = onnx.load(path)
    graph = model.graph
    inputs, (output,) = graph.input[0].name, graph.output
    for node in graph.node:
        node.output[:] = [f"{name}_fast" if name == output.name else name for name in node.output]
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(_ONE_IN, np.int64), "slow_one_in"),
            numpy_helper.from_array(np.array(0, np.int64), "slow_zero"),
        ]
    )
    graph.node.extend(
        [
            helper.make_node("ReduceSum", [inputs], ["slow_sum"], keepdims=0),
            helper.make_node("Mod", ["slow_sum", "slow_one_in"], ["slow_rest"]),
            helper.make_node("Equal", ["slow_rest", "slow_zero"], ["slow_chosen"]),
            helper.make_node(
                "If",
                ["slow_chosen"],
                ["slow_nothing"],
                then_branch=_work("slow_then", _PRODUCTS),
                else_branch=_work("slow_else", 0),
            ),
            helper.make_node("Add", [f"{output.name}_fast", "slow_nothing"], [output.name]),
        ]
    )
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _work(name: str, products: int) -> Any:
    """Return a branch that gives 0 after so many products of matrices."""
    shape = numpy_helper.from_array(
        np.array([_SIDE if products else 1] * 2, np.int64), f"{name}_shape"
    )
    nodes = [
        helper.make_node("RandomNormalLike", [f"{name}_zeros"], [f"{name}_0"], seed=1.0),
    ]
    nodes.insert(0, helper.make_node("ConstantOfShape", [f"{name}_shape"], [f"{name}_zeros"]))
    for number in range(products):
        nodes.append(
            helper.make_node(
                "MatMul", [f"{name}_{number}", f"{name}_zeros"], [f"{name}_{number + 1}"]
            )
        )
    nodes.append(helper.make_node("ReduceMax", [f"{name}_{products}"], [f"{name}_max"], keepdims=0))
    nodes.append(helper.make_node("Mul", [f"{name}_max", f"{name}_nil"], [f"{name}_out"]))
    nil = numpy_helper.from_array(np.array(0, np.float32), f"{name}_nil")
    out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [])
    return helper.make_graph(nodes, name, [], [out], [shape, nil])
