"""What a bundle says of itself: its components, their versions, what each was fitted on, and its digest."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moderation import bundle_files as files
from moderation.decision import SIGNALS
from moderation.errors import BundleRejected
from moderation.features import FEATURE_NAMES

FORMAT: Final = "tidegate.bundle/1"
MANIFEST: Final = "manifest.json"

HEADS: Final = ("heads.image", "heads.text", "heads.fusion")
"""Three components in one graph; each has the version of its own tensors."""

PLACES: Final[Mapping[str, str]] = {
    "image_tower": "image_tower/",
    "text_tower": "text_tower/",
    "heads": "heads/",
    "ngram": "ngram/",
    "behaviour": "behaviour/",
    "ensemble": "ensemble.json",
    "thresholds": "thresholds.json",
    "reference": "reference.json",
    "prefilter": "prefilter.json",
}
"""Where each part's files lie; a trailing slash means a folder."""

OPTIONAL: Final = frozenset({"reference", "prefilter"})

FITTED_ON: Final[Mapping[str, tuple[str, ...]]] = {
    "image_tower": (),
    "text_tower": (),
    "heads.image": ("image_tower",),
    "heads.text": ("text_tower",),
    "heads.fusion": ("image_tower", "text_tower"),
    "ngram": (),
    "behaviour": (),
    "ensemble": ("heads.image", "heads.text", "heads.fusion", "ngram", "behaviour"),
    "thresholds": ("ensemble",),
    "reference": ("image_tower", "text_tower", "ensemble"),
    "prefilter": ("behaviour",),
}
"""What each component was fitted on the outputs of: it holds for those versions and for no others."""

_SHORT: Final = (
    16  # hexadecimal characters of a component version: tells versions apart, proves nothing
)
_HEAD_TENSORS: Final = "heads/heads.safetensors"
_IMAGE_SCALE: Final = ("mean_image_D", "std_image_D")
_TEXT_SCALE: Final = ("mean_text_D", "std_text_D")
_TENSORS_OF: Final[Mapping[str, tuple[tuple[str, ...], int]]] = {
    "heads.image": (("image_head.", *_IMAGE_SCALE), 0),
    "heads.text": (("text_head.", *_TEXT_SCALE), 1),
    "heads.fusion": (("fusion_head.", *_IMAGE_SCALE, *_TEXT_SCALE), 2),
}
"""Prefixes of a head's tensors, and its row of the prior shift."""

Version = Annotated[str, Field(pattern=rf"^[0-9a-f]{{{_SHORT}}}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Inputs(_Frozen):
    """What a bundle was made from; part of its digest."""

    snapshot: Sha256
    code: str
    """Digest of the code that trained it."""

    config: str
    """Digest of the training's configuration."""

    seed: int
    prior_study: str | None = None
    """Digest of the tuning study that warm-started this one."""

    parent: Sha256 | None = None
    """Bundle that this one upgrades in part; None when all was trained anew."""


class Description(_Frozen):
    """What a bundle answers for, and what it was made from."""

    policies: Annotated[tuple[str, ...], Field(min_length=1)]
    profile: str
    inputs: Inputs


class Component(_Frozen):
    """One part of a bundle that can be replaced on its own."""

    version: Version
    files: tuple[str, ...]
    fitted_on: dict[str, Version]


class Manifest(Description):
    """The whole content of `manifest.json` but its own digest."""

    format: str
    features: tuple[str, ...]
    members: tuple[str, ...]
    components: dict[str, Component]
    files: dict[str, Sha256]

    def digest(self) -> str:
        """Return the bundle's digest: SHA-256 of the canonical JSON of everything here."""
        return files.digest_of(self.model_dump(mode="json"))


def describe(
    folder: Path, description: Description, fitted_on: Mapping[str, Mapping[str, str]]
) -> Manifest:
    """Return the manifest of the files that lie in `folder`.

    Args:
        folder: a bundle's folder without its manifest.
        description: what goes into the digest beside the files.
        fitted_on: component -> what it was fitted on; one that is not here was fitted with the others here.

    Raises:
        BundleRejected: if a file is of a wrong type or place, or a part is missing.
    """
    digests = {name: files.file_digest(path) for name, path in files.list_files(folder).items()}
    return Manifest(
        format=FORMAT,
        policies=description.policies,
        profile=description.profile,
        inputs=description.inputs,
        features=FEATURE_NAMES,
        members=SIGNALS,
        components=components_of(folder, digests, fitted_on),
        files=digests,
    )


def parse_manifest(content: Any) -> tuple[Manifest, str | None]:
    """Return the manifest in `content`, and the digest that it claims.

    Raises:
        BundleRejected: naming each wrong field.
    """
    if not isinstance(content, dict):
        files.reject(MANIFEST, "is not a JSON object")
    if content.get("format") != FORMAT:
        files.reject(
            MANIFEST,
            f"has format {str(content.get('format'))[:64]!r}, and this release reads {FORMAT!r}",
            "build it again with this release, or serve it with the release that wrote it",
        )
    claimed = content.pop("digest", None)
    try:
        # Strict validation takes lists for tuples from JSON text only, not from Python objects.
        manifest = Manifest.model_validate_json(files.canonical_json(content))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise BundleRejected(f"{MANIFEST}: {wrong}; build the bundle again") from error
    return manifest, None if claimed is None else str(claimed)


def check_components(folder: Path, manifest: Manifest) -> None:
    """Refuse a manifest whose components are not what the files say, or do not belong together.

    Args:
        folder: the bundle; the digests of its files are verified already.
        manifest: what it says.

    Raises:
        BundleRejected: naming the component, the versions that disagree, and what to fit again.
    """
    actual = components_of(folder, manifest.files, {})
    if actual.keys() != manifest.components.keys():
        odd = sorted(actual.keys() ^ manifest.components.keys())
        files.reject(MANIFEST, f"components and files disagree about {odd}")
    for name, said in manifest.components.items():
        if (said.version, said.files) != (actual[name].version, actual[name].files):
            files.reject(MANIFEST, f"component {name} does not have the version of its files")
    for name, said in manifest.components.items():
        _check_fitted(name, said, manifest.components)


def _check_fitted(name: str, said: Component, components: Mapping[str, Component]) -> None:
    needed = FITTED_ON[name]
    if set(said.fitted_on) != set(needed):
        files.reject(
            name,
            f"says that it was fitted on {sorted(said.fitted_on)}",
            f"name the versions of {list(needed)} that it was fitted on",
        )
    for other in needed:
        if said.fitted_on[other] != components[other].version:
            files.reject(
                name,
                f"was fitted on {other} {said.fitted_on[other]}, but here is {components[other].version}",
                f"fit {name} again on the outputs of this {other} and pass it as a part too",
            )


def components_of(
    folder: Path, digests: Mapping[str, str], fitted_on: Mapping[str, Mapping[str, str]]
) -> dict[str, Component]:
    """Return component -> its description, in the order of `FITTED_ON`.

    Args:
        folder: where the files lie.
        digests: relative path -> SHA-256.
        fitted_on: as in `describe`.

    Raises:
        BundleRejected: if a file belongs nowhere, or a part that is not optional is missing.
    """
    held = {part: _files_at(place, digests) for part, place in PLACES.items()}
    for name in sorted(set(digests) - {name for group in held.values() for name in group}):
        files.reject(name, "belongs to no component", f"known places are {list(PLACES.values())}")
    for part in sorted(held.keys() - OPTIONAL):
        if not held[part]:
            files.reject(PLACES[part], "is missing", "a bundle needs all of its parts")
    found = {name: held[part_of(name)] for name in FITTED_ON if held[part_of(name)]}
    version = {name: component_version(folder, name, digests) for name in found}
    return {
        name: Component(
            version=version[name],
            files=names,
            fitted_on=dict(
                fitted_on.get(name) or {other: version[other] for other in FITTED_ON[name]}
            ),
        )
        for name, names in found.items()
    }


def part_of(component: str) -> str:
    """Return the key of `PLACES` under which the files of `component` lie."""
    return "heads" if component in HEADS else component


def component_version(root: Path, component: str, digests: Mapping[str, str]) -> str:
    """Return a component's version; of a head that of its own tensors, since the three share one graph."""
    if component not in HEADS:
        names = _files_at(PLACES[component], digests)
        return files.digest_of([[name, digests[name]] for name in names])[:_SHORT]
    if _HEAD_TENSORS not in digests:
        files.reject(_HEAD_TENSORS, "is missing", "export the heads with their tensors")
    prefixes, row = _TENSORS_OF[component]
    digest = files.tensors_digest(
        root / _HEAD_TENSORS, _HEAD_TENSORS, prefixes=prefixes, row_of=("shift_3P", row)
    )
    return digest[:_SHORT]


def _files_at(place: str, names: Collection[str]) -> tuple[str, ...]:
    if place.endswith("/"):
        return tuple(sorted(name for name in names if name.startswith(place)))
    return (place,) if place in names else ()
