"""The trained artefact: a folder that is built whole, named by its digest, and verified whenever it is opened.

The digest is that of the canonical manifest: the digest of every file, and the inputs that made them. Time, metrics
and verdicts are not in it; they are attestations, kept beside it in `attestations/`.

Every component carries a version made from its own bytes, and the versions of what it was fitted on. So one modality
can be upgraded alone, and a meta-learner that was fitted on other members is refused instead of trusted.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from moderation import bundle_files as files
from moderation.bundle_checks import check_compatible, check_kept_heads
from moderation.decision import SIGNALS
from moderation.errors import PermanentError
from moderation.features import FEATURE_NAMES
from moderation.manifest import (
    FITTED_ON,
    HEADS,
    MANIFEST,
    PLACES,
    Description,
    Inputs,
    Manifest,
    check_components,
    component_version,
    describe,
    parse_manifest,
    part_of,
)

__all__ = ["Bundle", "Description", "Inputs", "Part", "build", "store", "upgrade", "versions"]

ATTESTATIONS: Final = "attestations"
ENGINES_FOLDER: Final = "engines"
"""Graphs that engines derived from the bundle; outside its digest, bound to it by attestations."""

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Part:
    """Files of one component, and the versions of the components that it was fitted on."""

    path: Path
    """A folder or a file, as `PLACES` says."""

    fitted_on: Mapping[str, str] = field(default_factory=dict)
    """Component -> version, as `versions` gives it. Left empty in `build`: fitted with the other parts, in one run."""


Parts = Mapping[str, Part | Path]
"""Component -> where it lies. `heads` stands for the three heads, which always come from one folder."""


@dataclass(frozen=True)
class Bundle:
    """A verified bundle; `open` and `build` make one."""

    folder: Path
    digest: str
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path, *, digest: str | None = None) -> "Bundle":
        """Return the bundle in `folder`, every byte of it verified.

        Args:
            folder: as `build` left it. A folder that is named by a digest must hold that very bundle.
            digest: the digest that is expected; None takes the one that the manifest proves.

        Raises:
            BundleRejected: naming the file that is altered, missing, extra, of a wrong type or of another format.
        """
        manifest, claimed = parse_manifest(files.read_manifest(folder / MANIFEST))
        actual, name = manifest.digest(), folder.resolve().name
        named = name if _DIGEST.fullmatch(name) else None
        for source, value in (
            ("its digest field", claimed),
            ("the expected digest", digest),
            ("the name of its folder", named),
        ):
            if value is not None and value != actual:
                files.reject(MANIFEST, f"{source} is {value}, but the manifest adds up to {actual}")
        _verify_files(folder, manifest)
        check_components(folder, manifest)
        if manifest.members != SIGNALS or manifest.features != FEATURE_NAMES:
            files.reject(
                MANIFEST,
                "was built for other ensemble members or behaviour features than this release has",
                "train again with this release",
            )
        check_compatible(folder, manifest.policies)
        return cls(folder, actual, manifest)

    @property
    def versions(self) -> dict[str, str]:
        """Component -> version."""
        return {name: part.version for name, part in self.manifest.components.items()}


def _verify_files(folder: Path, manifest: Manifest) -> None:
    for name in manifest.files:
        files.check_path(name)
    found = files.list_files(folder, skip=frozenset({MANIFEST, ATTESTATIONS, ENGINES_FOLDER}))
    for name in sorted(found.keys() - manifest.files.keys()):
        files.reject(name, "is not in the manifest")
    for name in sorted(manifest.files.keys() - found.keys()):
        files.reject(name, "is in the manifest but not in the folder")
    for name, expected in sorted(manifest.files.items()):
        if files.file_digest(found[name]) != expected:
            files.reject(name, "was altered: its SHA-256 is not the manifest's")
        files.check_content(found[name], name)


def versions(parts: Parts) -> dict[str, str]:
    """Return the version that each component among `parts` will have in a bundle.

    A run that fits on members keeps these beside its result: they are the `fitted_on` of its `Part`.

    Raises:
        BundleRejected: for files that no bundle may hold.
    """
    with tempfile.TemporaryDirectory(prefix="tidegate-versions-") as scratch:
        root = Path(scratch)
        paths = _paths(parts)
        for part, path in paths.items():
            _place(path, part, root)
        digests = {name: files.file_digest(path) for name, path in files.list_files(root).items()}
        return {
            component: component_version(root, component, digests)
            for component in FITTED_ON
            if part_of(component) in paths
        }


def build(folder: Path, parts: Parts, description: Description) -> Bundle:
    """Return a new bundle in `folder`; it appears whole and verified, or not at all.

    Args:
        folder: where it shall be. If the very same bundle is there already, that one is returned.
        parts: component -> its folder or file; the files are copied.
        description: policies, profile and inputs: what goes into the digest beside the files.

    Raises:
        BundleRejected: if a part is missing, of a wrong type, or was fitted on other versions than are given.
        PermanentError: if `folder` holds something else.
    """
    with _scratch(folder) as scratch:
        for part, path in _paths(parts).items():
            _place(path, part, scratch)
        _write(scratch, describe(scratch, description, _declared(parts)))
        return _move_into_place(Bundle.open(scratch), folder)


def upgrade(bundle: Bundle, parts: Parts, inputs: Inputs, folder: Path) -> Bundle:
    """Return a new bundle in `folder`: `bundle` with some components replaced and every other byte kept.

    A new image tower, for instance, needs new image and fusion heads and a new ensemble with its thresholds; the text
    head, the n-gram model and the behaviour model stay as they are.

    Args:
        bundle: the verified bundle to start from; it becomes `inputs.parent`.
        parts: replaced components. Each that rests on others says by `Part.fitted_on` on which versions.
        inputs: what the new parts were made from.
        folder: where the new bundle shall be.

    Raises:
        BundleRejected: if a kept component rests on a replaced one, a replaced one on versions that are not here, or
            a component that is not among `parts` would change.
    """
    replaced = _components_in(parts)
    declared = _declared(parts)
    for name in sorted(replaced):
        if FITTED_ON[name] and name not in declared:
            files.reject(
                name,
                "does not say what it was fitted on",
                f"pass Part(path, fitted_on={{...}}) with the versions of {list(FITTED_ON[name])}",
            )
    kept = {
        name: component.fitted_on
        for name, component in bundle.manifest.components.items()
        if name not in replaced
    }
    paths = {
        part: bundle.folder / place
        for part, place in PLACES.items()
        if (bundle.folder / place).exists()
    } | _paths(parts)
    description = Description(
        policies=bundle.manifest.policies,
        profile=bundle.manifest.profile,
        inputs=inputs.model_copy(update={"parent": bundle.digest}),
    )
    with _scratch(folder) as scratch:
        for part, path in paths.items():
            _place(path, part, scratch)
        manifest = describe(scratch, description, kept | declared)
        for name in kept:
            if manifest.components[name].version != bundle.versions[name]:
                files.reject(name, "would change though it is kept", "pass it as a part too")
        _write(scratch, manifest)
        upgraded = Bundle.open(scratch)
        if "heads" in _paths(parts):
            check_kept_heads(bundle.folder, scratch, [name for name in HEADS if name in kept])
        return _move_into_place(upgraded, folder)


def store(bundle: Bundle, bundles: Path) -> Bundle:
    """Return the copy of `bundle` in the content-addressed folder `bundles`, its attestations with it."""
    folder = bundles / bundle.digest
    if folder.exists():
        return Bundle.open(folder)
    with _scratch(folder) as scratch:
        shutil.copytree(bundle.folder, scratch, dirs_exist_ok=True, symlinks=True)
        return _move_into_place(Bundle.open(scratch, digest=bundle.digest), folder)


def _components_in(parts: Parts) -> set[str]:
    return {name for key in parts for name in (HEADS if key == "heads" else (key,))}


def _declared(parts: Parts) -> dict[str, dict[str, str]]:
    """Return component -> what its part says that it was fitted on."""
    return {
        name: {other: part.fitted_on[other] for other in FITTED_ON[name] if other in part.fitted_on}
        for key, part in parts.items()
        if isinstance(part, Part) and part.fitted_on
        for name in (HEADS if key == "heads" else (key,))
    }


def _paths(parts: Parts) -> dict[str, Path]:
    """Return part -> path, a head's key standing for the folder that all heads share."""
    found: dict[str, Path] = {}
    for name, value in parts.items():
        part = part_of(name)
        if part not in PLACES:
            files.reject(repr(name), "is no component", f"known are {list(FITTED_ON)}")
        path = value.path if isinstance(value, Part) else value
        if found.setdefault(part, path) != path:
            files.reject(name, "lies elsewhere than another head", "export the heads to one folder")
    return found


def _place(path: Path, part: str, root: Path) -> None:
    place = PLACES[part]
    if not place.endswith("/"):
        if not path.is_file() or path.is_symlink():
            files.reject(str(path), f"is not a file, as {part} must be", "write it first")
        shutil.copyfile(path, root / place)
        return
    if not path.is_dir():
        files.reject(str(path), f"is not a folder, as {part} must be", "write it first")
    for name, source in files.list_files(path).items():
        target = root / place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Give a folder beside `folder`, so that moving it there is one rename; what is left in it is removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    scratch.chmod(0o755)  # a predictor that runs as another user must read it
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write(folder: Path, manifest: Manifest) -> None:
    content = manifest.model_dump(mode="json") | {"digest": manifest.digest()}
    (folder / MANIFEST).write_bytes(files.canonical_json(content) + b"\n")


def _move_into_place(bundle: Bundle, folder: Path) -> Bundle:
    try:
        os.rename(bundle.folder, folder)
    except OSError as error:
        if not (folder / MANIFEST).exists():
            raise PermanentError(f"{folder}: is taken and holds no bundle; name another") from error
        present = Bundle.open(folder)
        if present.digest != bundle.digest:
            raise PermanentError(
                f"{folder}: holds bundle {present.digest[:12]}, not {bundle.digest[:12]}; "
                "name another folder"
            ) from error
        return present
    return Bundle(folder, bundle.digest, bundle.manifest)
