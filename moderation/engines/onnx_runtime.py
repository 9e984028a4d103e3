"""ONNX Runtime: the reference in fp32, and the same runtime on graphs whose matrix products are int8."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime

from moderation.engines.engine import REFERENCE, Array, EngineName
from moderation.errors import BundleRejected


def open_session(path: Path, num_threads: int = 1) -> Any:
    """Return an ONNX Runtime session, the same wherever a graph of ours is run.

    Args:
        path: a graph.
        num_threads: of one run; what a run gives does not depend on what else runs.

    Raises:
        BundleRejected: if the file is missing or is no graph.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no base class but Exception
        raise BundleRejected(f"{path.name} cannot be loaded: {error}; export it again") from error


class OnnxRuntimeEngine:
    """One graph in ONNX Runtime on the CPU.

    Args:
        path: the graph, fp32 or int8.
        name: which of the two it is.
        num_threads: of one run.

    Raises:
        BundleRejected: if the file is missing or is no graph.
    """

    def __init__(self, path: Path, name: EngineName = REFERENCE, num_threads: int = 1) -> None:
        self.name = name
        self._session = open_session(path, num_threads)
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the graph's outputs by name."""
        values = self._session.run(self._outputs, dict(inputs))
        return dict(zip(self._outputs, values, strict=True))


def open_reference(folder: Path) -> OnnxRuntimeEngine:
    """Return the reference engine of a tower's folder, on one thread."""
    return OnnxRuntimeEngine(folder / "model.onnx")


def library() -> str:
    """Return the version that computes."""
    return f"onnxruntime {onnxruntime.__version__}"
