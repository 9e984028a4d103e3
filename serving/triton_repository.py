"""A bundle's towers as a model repository of Triton: one folder per tower, its graph, and how requests are batched."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final, Literal

from moderation.bundle import Bundle
from moderation.derived_graphs import TOWERS
from moderation.engines.onnx_runtime import open_session
from moderation.errors import PermanentError
from moderation.files import replace_file
from moderation.serving_rules import TritonRules
from serving.triton import model_name

Kind = Literal["KIND_AUTO", "KIND_CPU", "KIND_GPU"]
"""Where Triton runs the copies of a tower; auto is a GPU where there is one."""

_TYPES: Final = {"tensor(float)": "TYPE_FP32", "tensor(int64)": "TYPE_INT64"}
_VERSION: Final = "1"
_CONFIG_FILE: Final = "config.pbtxt"

_CONFIG: Final = """\
name: "{name}"
platform: "onnxruntime_onnx"
max_batch_size: {max_batch}
input [
{inputs}
]
output [
{outputs}
]
dynamic_batching {{
  preferred_batch_size: [ {preferred} ]
  max_queue_delay_microseconds: {delay}
}}
instance_group [
  {{ count: {instances} kind: {kind} }}
]
version_policy {{ specific {{ versions: [ {version} ] }} }}
parameters {{ key: "tidegate_bundle" value {{ string_value: "{bundle}" }} }}
"""


def export_repository(
    bundle: Bundle, folder: Path, rules: TritonRules, *, kind: Kind = "KIND_AUTO"
) -> list[str]:
    """Write the towers of a bundle into a model repository; return the names of the models.

    The graph of a model that is there already is kept, as its name carries the digest of the tower; how it is batched
    is written anew where that changed. Bundles that share a tower share its model, which names the first of them.

    Args:
        bundle: verified.
        folder: the repository; models of other bundles in it stay.
        rules: batching, from the release contract.
        kind: where the copies run.

    Raises:
        PermanentError: if the folder cannot be written.
    """
    names = []
    for tower in TOWERS:
        source = bundle.folder / tower
        name = model_name(source)
        names.append(name)
        config = _config(name, source / "model.onnx", bundle.digest, rules, kind)
        if (folder / name).exists():
            _update(folder / name / _CONFIG_FILE, config)
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=".exporting-", dir=folder))
        except OSError as error:
            raise PermanentError(
                f"{folder}: cannot be written ({error.strerror}); name another"
            ) from error
        try:
            (scratch / _VERSION).mkdir()
            shutil.copyfile(source / "model.onnx", scratch / _VERSION / "model.onnx")
            (scratch / _CONFIG_FILE).write_text(config)
            scratch.chmod(0o755)  # Triton runs as another user
            os.rename(scratch, folder / name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return names


def _update(path: Path, config: str) -> None:
    """Write a configuration where it differs in more than the bundle that it names: Triton loads a changed one anew."""
    try:
        before = path.read_text() if path.exists() else ""
        if _without_bundle(before) != _without_bundle(config):
            replace_file(path, config.encode())
    except OSError as error:
        raise PermanentError(f"{path}: cannot be written ({error.strerror})") from error


def _without_bundle(config: str) -> list[str]:
    return [line for line in config.splitlines() if "tidegate_bundle" not in line]


def _config(name: str, graph: Path, bundle: str, rules: TritonRules, kind: Kind) -> str:
    session = open_session(graph)
    return _CONFIG.format(
        name=name,
        max_batch=rules.max_batch,
        inputs=",\n".join(_tensor(one) for one in session.get_inputs()),
        outputs=",\n".join(_tensor(one) for one in session.get_outputs()),
        preferred=", ".join(map(str, rules.preferred_batches)),
        delay=rules.max_queue_delay_us,
        instances=rules.instances,
        kind=kind,
        version=_VERSION,
        bundle=bundle,
    )


def _tensor(described: Any) -> str:
    """Return one input or output; its first axis is the batch, which Triton adds itself, -1 an axis of any length."""
    dims = ", ".join(str(axis) if isinstance(axis, int) else "-1" for axis in described.shape[1:])
    return f'  {{ name: "{described.name}" data_type: {_TYPES[described.type]} dims: [ {dims} ] }}'
