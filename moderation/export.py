"""Export of towers: from torch to a folder that serving reads without torch; the same weights give the same bytes.

B items, C channels, H x W pixels, T tokens, D embedding width.
"""

import hashlib
import json
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx
import torch
from safetensors.torch import save_file
from torch import nn
from torch.export import Dim

from moderation.profiles import Profile
from moderation.reading import IMAGE_FOLDER, TEXT_FOLDER
from moderation.towers import ImageTower, TextParts, build_image_tower, build_text_tower

_FORMAT: Final = 1
_OPSET: Final = 20


@dataclass(frozen=True)
class TowersInfo:
    """Exported towers: where they are, and the digests that embeddings are keyed by."""

    folder: Path
    image_digest: str
    text_digest: str

    @classmethod
    def open(cls, folder: Path) -> "TowersInfo":
        """Return what `folder` holds."""
        image, text = (
            json.loads((folder / name / "tower.json").read_text())["digest"]
            for name in (IMAGE_FOLDER, TEXT_FOLDER)
        )
        return cls(folder, image, text)


def export_towers(profile: Profile, folder: Path) -> TowersInfo:
    """Return the profile's towers as a folder of ONNX, weights, tokenizer and preprocessing; built once, then reused.

    Args:
        profile: names the towers; its digest decides whether an existing folder is reused.
        folder: `image_tower/` and `text_tower/` go below `folder/<digest of the towers>`.

    Raises:
        PermanentError: if weights are missing or of another shape.
    """
    target = folder / profile.towers_digest
    if (target / TEXT_FOLDER / "tower.json").exists():
        return TowersInfo.open(target)
    image = build_image_tower(profile.image_tower)
    text = build_text_tower(profile.text_tower)
    return write_towers(profile, image, text, target)


def write_towers(
    profile: Profile,
    image: ImageTower,
    text: TextParts,
    target: Path,
    *,
    tuned_fold: int | None = None,
) -> TowersInfo:
    """Write two towers into `target`, which appears whole or not at all; `tuned_fold` says what they were tuned on."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".towers-", dir=target.parent))
    try:
        _write_image_tower(profile, image, staging / IMAGE_FOLDER, tuned_fold)
        _write_text_tower(profile, text, staging / TEXT_FOLDER)
        if not target.exists():
            staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return TowersInfo.open(target)


def _write_image_tower(
    profile: Profile, tower: ImageTower, folder: Path, tuned_fold: int | None
) -> None:
    size = profile.image_size
    example = (torch.zeros(2, 3, size, size),)
    shapes = {"images_BCHW": {0: Dim("batch")}}
    facts = {
        "architecture": profile.image_tower.name,
        "dim": profile.image_tower.dim,
        "image_size": size,
        "mean": profile.mean,
        "std": profile.std,
        "tuned_fold": tuned_fold,
    }
    _write_tower(tower, example, shapes, facts, folder)


def _write_text_tower(profile: Profile, parts: TextParts, folder: Path) -> None:
    ids_BT = torch.ones(2, 8, dtype=torch.int64)
    batch, tokens = Dim("batch"), Dim("tokens", min=2, max=profile.max_tokens)
    shapes = {name: {0: batch, 1: tokens} for name in ("ids_BT", "mask_BT")}
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(parts.tokenizer)
    facts = {
        "architecture": profile.text_tower.name,
        "dim": profile.text_tower.dim,
        "max_tokens": profile.max_tokens,
        "tokenizer": hashlib.sha256(parts.tokenizer.encode()).hexdigest(),
    }
    _write_tower(parts.tower, (ids_BT, torch.ones_like(ids_BT)), shapes, facts, folder)


def _write_tower(
    tower: nn.Module,
    example: tuple[torch.Tensor, ...],
    shapes: dict[str, Any],
    facts: dict[str, Any],
    folder: Path,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in tower.state_dict().items()
    }
    save_file(weights, folder / "weights.safetensors")
    write_onnx(tower, example, shapes, ("embedding_BD",), folder / "model.onnx")
    facts = {"format": _FORMAT, **facts}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    digest.update((folder / "weights.safetensors").read_bytes())
    facts["digest"] = digest.hexdigest()
    (folder / "tower.json").write_text(json.dumps(facts, indent=1, sort_keys=True))


def write_onnx(
    module: nn.Module,
    example: tuple[torch.Tensor, ...],
    shapes: dict[str, Any],
    outputs: tuple[str, ...],
    path: Path,
) -> None:
    """Write `module` in evaluation mode as ONNX whose bytes depend on its graph and weights alone.

    Args:
        module: inputs are named by the keys of `shapes`, in order.
        example: one input each; a batch of at least 2, or the batch would be fixed at 1.
        shapes: input name -> axis -> dynamic dimension.
        outputs: names of the outputs.
        path: written atomically by its caller's folder.
    """
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter warns about its own internals; what matters is the comparison with torch in the tests.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval().cpu(),
            example,
            dynamo=True,
            dynamic_shapes=tuple(shapes.values()),
            input_names=list(shapes),
            output_names=list(outputs),
            opset_version=_OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _strip(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _strip(model: onnx.ModelProto) -> None:
    """Remove what tells where and when a graph was traced: stack traces, file paths, descriptions."""
    model.ClearField("metadata_props")
    model.ClearField("doc_string")
    graphs = [model.graph, *model.functions]
    while graphs:
        graph = graphs.pop()
        items = [graph, *graph.node, *graph.value_info]
        for name in ("initializer", "input", "output"):
            items.extend(getattr(graph, name, ()) if isinstance(graph, onnx.GraphProto) else ())
        for item in items:
            for field in ("metadata_props", "doc_string"):
                if field in item.DESCRIPTOR.fields_by_name:
                    item.ClearField(field)
        for node in graph.node:
            graphs.extend(attribute.g for attribute in node.attribute if attribute.HasField("g"))
