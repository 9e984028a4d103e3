"""What a candidate gets wrong only under attack, written for people and for the choice of what the next training sees.

They are listings of the golden set, so nothing here may be trained on: neither the attacked listing (a family that
gates judge is never trained on as it is) nor the original (it is quarantined from every snapshot). What a training may
use is `like`: rows of its own of the same policy, language, category, ... may be drawn more often.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image

from moderation.attacks.registry import ATTACKS, ATTACKS_VERSION, Subject, apply

FORMAT: Final = 1
INSPECT: Final = "inspect"
"""Value of `use`: to be looked at, never to be trained on."""

MAX_EXAMPLES: Final = 200
_QUALITY: Final = 90


@dataclass(frozen=True)
class HardExample:
    """One listing that an attack turned the answer of."""

    submission_id: str
    policy: str
    truth: int
    """1: a violation that was found and is lost; 0: an innocent listing that is flagged now."""

    bundle: str
    """Digest of the candidate."""

    attack: str
    family: str
    severity: float
    before: float
    """Probability of a violation without the attack."""

    after: float
    like: Mapping[str, str]
    """Slice name -> value: which rows of a training are of its kind."""

    @property
    def key(self) -> bytes:
        """The key that the attack was seeded with."""
        return self.submission_id.encode()


def export(
    examples: Sequence[HardExample],
    folder: Path,
    *,
    bundle: str,
    subject_of: Callable[[str], Subject | None],
) -> Path:
    """Write the first `MAX_EXAMPLES` as `<bundle>.jsonl`, their pictures by digest below `images/`; return the file.

    Each line can be made again: name, severity, key and version of the attack are in it. Empty where nothing failed.

    Args:
        examples: of the bundle, worst first.
        folder: made if it is not there; a file of the same bundle is replaced whole.
        bundle: digest of the bundle that got them wrong.
        subject_of: gives the original listing of a submission id; None where it is gone.
    """
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    lines = [_line(one, subject_of(one.submission_id), images) for one in examples[:MAX_EXAMPLES]]
    path = folder / f"{bundle}.jsonl"
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text("".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))
    os.replace(unfinished, path)
    return path


def _line(example: HardExample, subject: Subject | None, images: Path) -> dict[str, Any]:
    changed = None
    if subject is not None and example.attack in ATTACKS:  # white-box attacks cannot be repeated
        changed = apply(example.attack, subject, severity=example.severity, key=example.key)
    attacked: dict[str, Any] | None = None
    if changed is not None:
        attacked = {
            "title": changed.title,
            "description": changed.description,
            "images": [_store(image, images) for image in changed.images],
        }
    return {
        "format": FORMAT,
        "use": INSPECT,
        **asdict(example),
        "key": example.key.hex(),
        "attacks_version": ATTACKS_VERSION,
        "attacked": attacked,
    }


def _store(image: Image.Image, folder: Path) -> str:
    """Return the SHA-256 under which a picture lies in the folder."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    path = folder / f"{digest}.jpg"
    if not path.exists():
        path.write_bytes(buffer.getvalue())
    return digest
