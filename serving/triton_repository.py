"""A bundle's towers as a model repository of Triton: one folder per tower, its graph, and how requests are batched."""

import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final, Literal

from moderation.bundle import Bundle
from moderation.bundle_files import file_digest
from moderation.derived_graphs import TOWERS
from moderation.engines.onnx_runtime import open_session
from moderation.errors import PermanentError
from moderation.files import replace_file, sync
from moderation.serving_rules import TritonRules
from serving.triton import model_name

Kind = Literal["KIND_AUTO", "KIND_CPU", "KIND_GPU"]
"""Where Triton runs the copies of a tower; auto is a GPU where there is one."""

_LOG: Final = logging.getLogger(__name__)

_TYPES: Final = {"tensor(float)": "TYPE_FP32", "tensor(int64)": "TYPE_INT64"}
_VERSION: Final = "1"
_CONFIG_FILE: Final = "config.pbtxt"
_GRAPH_FILE: Final = "model.onnx"

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

    The graph of a model that is there already is kept while it is the bundle's byte for byte, and put back where it is
    not; how it is batched is written anew where that changed. Bundles that share a tower share its model, which names
    the first of them.

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
        config = _config(name, source / _GRAPH_FILE, bundle.digest, rules, kind)
        if (folder / name).exists():
            _mend(folder / name / _VERSION / _GRAPH_FILE, source / _GRAPH_FILE)
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
            shutil.copyfile(source / _GRAPH_FILE, scratch / _VERSION / _GRAPH_FILE)
            sync(scratch / _VERSION / _GRAPH_FILE)
            (scratch / _CONFIG_FILE).write_text(config)
            scratch.chmod(0o755)  # Triton runs as another user
            os.rename(scratch, folder / name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return names


def _mend(path: Path, source: Path) -> None:
    """Put a graph back that is gone, or is not that of the bundle any more."""
    try:
        if _is_same(path, source):
            return
        _LOG.warning("graph in the model repository was damaged", extra={"path": str(path)})
        replace_file(path, source.read_bytes())
    except OSError as error:
        raise PermanentError(f"{path}: cannot be written ({error.strerror})") from error


def _is_same(path: Path, source: Path) -> bool:
    if not path.is_file() or path.stat().st_size != source.stat().st_size:
        return False
    return file_digest(path) == file_digest(source)


def _update(path: Path, config: str) -> None:
    """Write a configuration where it differs in more than the bundle that it names: Triton loads a changed one anew."""
    try:
        before = path.read_text(errors="replace") if path.exists() else ""
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
