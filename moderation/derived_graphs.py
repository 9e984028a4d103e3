"""int8 graphs of a bundle, in `engines/<engine>/` beside its files and outside its digest.

They are made from the bundle by one command and never trained. Nothing trusts them by where they lie: what binds them
to the bundle is the attestation of a comparison, which names their digest.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from moderation import bundle_files as files
from moderation.bundle import ENGINES_FOLDER, Bundle
from moderation.engines.engine import EngineName
from moderation.errors import BundleRejected, PermanentError
from moderation.reading import IMAGE_FOLDER, TEXT_FOLDER

TOWERS: Final = (IMAGE_FOLDER, TEXT_FOLDER)

Quantise = Callable[[Path, Path, EngineName], int]
"""Makes the int8 graph of a tower for an engine; returns how many weights became int8."""


def derive(bundle: Bundle, engine: EngineName, quantise: Quantise) -> dict[str, int]:
    """Write a bundle's int8 graphs for one engine, in the place of those that are there; return int8 weights by tower.

    Raises:
        PermanentError: if the folder cannot be written, as on a read-only volume.
    """
    target = derived_folder(bundle, engine)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".deriving-", dir=target.parent))
    except OSError as error:
        raise PermanentError(
            f"{target}: cannot be written ({error.strerror}); quantise a copy of the bundle"
        ) from error
    try:
        counts = {
            tower: quantise(bundle.folder / tower / "model.onnx", scratch / f"{tower}.onnx", engine)
            for tower in TOWERS
        }
        scratch.chmod(0o755)  # a predictor that runs as another user must read it
        shutil.rmtree(target, ignore_errors=True)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return counts


def derived_folder(bundle: Bundle, engine: EngineName) -> Path:
    """Return where the graphs of one engine lie, whether they are there or not."""
    return bundle.folder / ENGINES_FOLDER / engine


def derived_digest(bundle: Bundle, engine: EngineName) -> str:
    """Return the digest of a bundle's graphs for one engine.

    Raises:
        BundleRejected: if there are none, or other files lie there too.
    """
    folder = derived_folder(bundle, engine)
    found = files.list_files(folder) if folder.is_dir() else {}
    if set(found) != {f"{tower}.onnx" for tower in TOWERS}:
        raise BundleRejected(
            f"{folder} holds no int8 graphs of both towers; run "
            f"`tidegate bundle quantise {bundle.folder} --engine {engine}`"
        )
    return files.digest_of({name: files.file_digest(path) for name, path in found.items()})
