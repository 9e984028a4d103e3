"""What a candidate gets wrong only under attack, written for people and for the choice of what the next training sees.

They are listings of the golden set, so nothing here may be trained on: neither the attacked listing (a family that
gates judge is never trained on as it is) nor the original (it is quarantined from every snapshot). What a training
uses is `like`: rows of its own of the same policy, language and category are drawn more often.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal

from PIL import Image
from pydantic import TypeAdapter, ValidationError

from moderation.attacks.registry import ATTACKS, ATTACKS_VERSION, Subject, apply
from moderation.errors import PermanentError

FORMAT: Final = 1
INSPECT: Final = "inspect"
"""Value of `use`: to be looked at, never to be trained on."""

MAX_EXAMPLES: Final = 200

MAX_BYTES: Final = 2**26
"""Largest export that is read: as many of the longest texts, escaped."""

_QUALITY: Final = 90


@dataclass(frozen=True)
class HardExample:
    """One listing that an attack turned the answer of."""

    submission_id: str
    policy: str
    truth: Literal[0, 1]
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


class DamagedExport(PermanentError):
    """A file of hard examples is not as it was written; delete it, or prove its bundle again."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"{path} is no whole export of hard examples: {why}; delete it, or prove the bundle again to write it anew"
        )


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


_EXAMPLE: Final = TypeAdapter(HardExample)


def read(path: Path) -> list[HardExample]:
    """Return the hard examples that `export` wrote to `path`, at most `MAX_EXAMPLES`.

    Raises:
        DamagedExport: if a line is not one of this format and of the bundle that names the file, or there are too many.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DamagedExport(path, f"it is larger than {MAX_BYTES} bytes")
        lines = path.read_text(encoding="utf-8").splitlines()
        found = [_parsed(json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError) as error:
        raise DamagedExport(path, _first_line(error)) from error
    if len(found) > MAX_EXAMPLES:
        raise DamagedExport(path, f"it holds more than {MAX_EXAMPLES} lines")
    strangers = {one.bundle for one in found} - {path.stem}
    if strangers:
        raise DamagedExport(path, "it holds lines of another bundle")
    return found


def _parsed(line: Any) -> HardExample:
    if not isinstance(line, dict) or line.get("format") != FORMAT:
        raise ValueError(f"a line is not of format {FORMAT}")
    names = [one.name for one in fields(HardExample)]
    return _EXAMPLE.validate_python({name: line[name] for name in names if name in line})


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error).partition("\n")[0]
