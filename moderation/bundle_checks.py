"""Whether the parts of a bundle belong together: widths, policies, and heads that were meant to stay as they are.

P policies, D embedding width.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np

from moderation.bundle_files import read_json, read_tensor_header, reject
from moderation.errors import BundleRejected

HEADS_ONNX: Final = "heads/heads.onnx"
HEADS_TENSORS: Final = "heads/heads.safetensors"
PREFILTER: Final = "prefilter.json"

_FIT_AGAIN: Final = "fit the part again for this bundle's towers and policies"
# Two exports of the same weights differ by rounding alone; a head that was trained anew differs in the first digits.
_SAME_HEAD: Final = 1e-5
_NUM_PROBES: Final = 8


def check_compatible(folder: Path, policies: Sequence[str]) -> None:
    """Refuse a bundle whose parts were made for other widths or policies.

    Args:
        folder: the bundle; its files are verified already.
        policies: those of the manifest, in order.

    Raises:
        BundleRejected: naming the file and what it was made for.
    """
    for name, what, found, wanted in _facts(folder, tuple(policies)):
        if found != wanted:
            reject(name, f"has {what} {found}, and the bundle has {wanted}", _FIT_AGAIN)


def _facts(folder: Path, policies: tuple[str, ...]) -> Iterator[tuple[str, str, Any, Any]]:
    """Yield (file, what, what it has, what it must have)."""
    shapes = {
        name: span.shape
        for name, span in read_tensor_header(folder / HEADS_TENSORS, HEADS_TENSORS).items()
    }
    for modality in ("image", "text"):
        width = shapes.get(f"mean_{modality}_D")
        dim = _get(folder, f"{modality}_tower/tower.json", "dim")
        yield HEADS_TENSORS, f"width of {modality} embeddings", width, (dim,)
    yield HEADS_TENSORS, "shift of policies", shapes.get("shift_3P"), (3, len(policies))
    intercept = _get(folder, "ngram/ngram.json", "intercept")
    yield "ngram/ngram.json", "number of policies", _length(intercept), len(policies)
    behaviour = _get(folder, "behaviour/behaviour.json", "policies")
    yield "behaviour/behaviour.json", "policies", _names(behaviour), policies
    yield "ensemble.json", "policies", _names(_get(folder, "ensemble.json", "policies")), policies
    solved = _names(_get(folder, "thresholds.json", "policies"))
    yield "thresholds.json", "policies", sorted(solved or ()), sorted(policies)
    if (folder / PREFILTER).is_file():
        yield PREFILTER, "policies", _names(_get(folder, PREFILTER, "policies")), policies


def _get(folder: Path, name: str, key: str) -> Any:
    path = folder / name
    content = read_json(path, name) if path.is_file() else _missing(name)
    if not isinstance(content, dict) or key not in content:
        reject(name, f"has no field {key}", _FIT_AGAIN)
    return content[key]


def _missing(name: str) -> NoReturn:
    reject(name, "is missing", "a bundle needs all of its parts")


def _length(values: Any) -> int | None:
    return len(values) if isinstance(values, list) else None


def _names(values: Any) -> tuple[str, ...] | None:
    """Return the policy ids of a list of names, a list of objects with an id, or an object by name."""
    if not isinstance(values, list | dict):
        return None
    return tuple(str(v.get("id") if isinstance(v, dict) else v) for v in values)


def check_kept_heads(before: Path, after: Path, kept: Sequence[str]) -> None:
    """Refuse an upgrade whose graph answers otherwise for a head that was to stay.

    The tensors of a kept head are compared by the manifest; this compares what is run.

    Args:
        before: the bundle that is upgraded.
        after: the new one.
        kept: components among the three heads that must answer as before.

    Raises:
        BundleRejected: naming the head.
    """
    for head in kept:
        modality = head.removeprefix("heads.")
        old, new = _probe(before, modality), _probe(after, modality)
        if old.shape != new.shape or not np.allclose(old, new, rtol=0, atol=_SAME_HEAD):
            reject(
                HEADS_ONNX,
                f"answers otherwise for {head}, which is kept",
                f"export the heads with the tensors of the old {head}, or pass it as a part too",
            )


def _probe(folder: Path, modality: str) -> Any:
    """Return a head's logits for a few random embeddings; what the other modalities say is left out."""
    # Opened here alone: everything else in a bundle is checked without running it.
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(folder / HEADS_ONNX), providers=["CPUExecutionProvider"]
    )
    width = {entry.name: entry.shape[-1] for entry in session.get_inputs()}
    rng = np.random.default_rng(7)
    embeddings = rng.standard_normal((_NUM_PROBES, width[_INPUT[modality]])).astype(np.float32)
    feed = {
        "images_BKD": np.zeros((_NUM_PROBES, 1, width["images_BKD"]), np.float32),
        "image_mask_BK": np.full((_NUM_PROBES, 1), modality != "text"),
        "text_BD": np.zeros((_NUM_PROBES, width["text_BD"]), np.float32),
        "has_text_B": np.full(_NUM_PROBES, modality != "image"),
    }
    feed[_INPUT[modality]] = embeddings.reshape(feed[_INPUT[modality]].shape)
    try:
        return session.run([f"{modality}_BP"], feed)[0]
    except Exception as error:  # ONNX Runtime's errors share no base class but Exception
        raise BundleRejected(f"{HEADS_ONNX}: does not run: {error}; export it again") from error


_INPUT: Final = {"image": "images_BKD", "text": "text_BD", "fusion": "images_BKD"}
