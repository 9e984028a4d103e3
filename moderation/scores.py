"""What the scorer reads and what it answers: one listing, and the scores of many.

N listings, P policies, M ensemble members, F behaviour features, D embedding width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from moderation.decision import STATUS_CODES, SignalStatus
from moderation.errors import InvalidListing
from moderation.features import FEATURE_NAMES
from moderation.listing import MAX_IMAGES
from moderation.reading import Pixels, Tokens
from moderation.text import NgramText

_OK: Final = STATUS_CODES[SignalStatus.OK]

Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int8]


@dataclass(frozen=True)
class ScoringItem:
    """One listing as the scorer reads it."""

    title: str = ""
    description: str = ""
    images: Sequence[bytes | Image.Image] = ()
    """Encoded bytes as they were submitted, or images that `image.decode` gave."""

    behaviour: npt.NDArray[np.float32] | None = None
    """float32[F] in the order of `FEATURE_NAMES`; a value that is not finite counts as missing. None: all missing."""

    behaviour_status: Codes | None = None
    """int8[F], see `STATUS_CODES`; None: what is finite is ok."""


class Readable(Protocol):
    """The part of a listing that limits and behaviour are read from, whatever its images are."""

    @property
    def images(self) -> Sequence[Any]:
        """Images in the order of the listing."""
        ...

    @property
    def behaviour(self) -> npt.NDArray[np.float32] | None:
        """As in `ScoringItem`."""
        ...

    @property
    def behaviour_status(self) -> Codes | None:
        """As in `ScoringItem`."""
        ...


@dataclass(frozen=True)
class PreparedItem:
    """One listing decoded, cut into tokens and normalised: what a batch of the models is made of."""

    images: tuple[Pixels | None, ...]
    """What the image tower sees of each, uint8[H, W, C]; None where one could not be decoded."""

    tokens_T: Tokens | None
    """None where no text is left after normalisation."""

    ngram: NgramText
    behaviour: npt.NDArray[np.float32] | None
    behaviour_status: Codes | None


@dataclass(frozen=True)
class EmbeddedItem:
    """One listing after the towers of a bundle."""

    images_KD: Vectors
    """Of the images that could be decoded."""

    image_index_K: npt.NDArray[np.int32]
    """Where these stand among the submitted ones."""

    undecodable: tuple[int, ...]
    text_D: Vectors | None
    """None where no text is left after normalisation."""


@dataclass(frozen=True)
class Scores:
    """What a bundle says of N listings."""

    probability_NP: Floats
    signals_NPM: Floats
    """Logit of each member; 0 where its status is not ok."""

    signal_status_NPM: Codes
    worst_image_NP: npt.NDArray[np.int32]
    """Index among the submitted images of the one that decided; -1 where none was scored."""

    undecodable: tuple[tuple[int, ...], ...]
    """Per listing, the indices of images that could not be decoded."""

    embedding_image_ND: Vectors | None
    """Mean over a listing's images; zeros without any. None unless asked for."""

    embedding_text_ND: Vectors | None
    latency_s: Mapping[str, float] = field(default_factory=dict)
    """Stage -> wall time of the whole call."""


_ARRAYS: Final = (
    "probability_NP",
    "signals_NPM",
    "signal_status_NPM",
    "worst_image_NP",
    "embedding_image_ND",
    "embedding_text_ND",
)


def check_item(item: Readable, name: str) -> None:
    """Refuse a listing that breaks a limit of the scorer; what cannot be decoded breaks none.

    Args:
        item: the listing.
        name: how it is called in the error.

    Raises:
        InvalidListing: naming the field.
    """
    if len(item.images) > MAX_IMAGES:
        raise InvalidListing(f"{name}.images", f"holds more than {MAX_IMAGES} images; send fewer")
    for field_name in ("behaviour", "behaviour_status"):
        value = getattr(item, field_name)
        if value is not None and np.shape(value) != (len(FEATURE_NAMES),):
            raise InvalidListing(
                f"{name}.{field_name}",
                f"has shape {np.shape(value)}; send {len(FEATURE_NAMES)} values in the order of the features",
            )
    status = item.behaviour_status
    if status is not None and not np.isin(status, list(STATUS_CODES.values())).all():
        raise InvalidListing(
            f"{name}.behaviour_status", f"holds a code that is not one of {STATUS_CODES}"
        )


def known_behaviour(items: Sequence[Readable]) -> Vectors:
    """Return behaviour_NF as training reads it: NaN where a feature is not known."""
    known_NF = np.full((len(items), len(FEATURE_NAMES)), np.nan, np.float32)
    for row, item in enumerate(items):
        if item.behaviour is not None:
            usable_F = np.isfinite(item.behaviour)
            if item.behaviour_status is not None:
                usable_F &= np.asarray(item.behaviour_status) == _OK
            known_NF[row, usable_F] = item.behaviour[usable_F]
    return known_NF


def gather_embedded(
    images: Sequence[Vectors | None], image_dim: int, text_D: Vectors | None
) -> EmbeddedItem:
    """Return one listing's embeddings together.

    Args:
        images: one embedding per submitted image, None where it could not be decoded.
        image_dim: D of the image tower.
        text_D: None where there is no text.
    """
    good = [(k, vector) for k, vector in enumerate(images) if vector is not None]
    images_KD = np.zeros((len(good), image_dim), np.float32)
    for row, (_, vector) in enumerate(good):
        images_KD[row] = vector
    return EmbeddedItem(
        images_KD,
        np.array([k for k, _ in good], np.int32),
        tuple(k for k, vector in enumerate(images) if vector is None),
        text_D,
    )


def image_means(embedded: Sequence[EmbeddedItem], dim: int) -> Vectors:
    """Return the mean embedding of each listing's images, zeros without any."""
    means_ND = np.zeros((len(embedded), dim), np.float32)
    for row, listing in enumerate(embedded):
        if len(listing.images_KD):
            means_ND[row] = listing.images_KD.mean(axis=0)
    return means_ND


def text_vectors(embedded: Sequence[EmbeddedItem], dim: int) -> Vectors:
    """Return the embedding of each listing's text, zeros without any."""
    texts_ND = np.zeros((len(embedded), dim), np.float32)
    for row, listing in enumerate(embedded):
        if listing.text_D is not None:
            texts_ND[row] = listing.text_D
    return texts_ND


def join_scores(parts: Sequence[Scores], latency_s: Mapping[str, float]) -> Scores:
    """Return the scores of several batches, at least one, as those of one."""
    if len(parts) == 1:
        return parts[0]
    joined: dict[str, Any] = {}
    for name in _ARRAYS:
        values = [getattr(part, name) for part in parts]
        joined[name] = None if values[0] is None else np.concatenate(values)
    undecodable = tuple(indices for part in parts for indices in part.undecodable)
    return Scores(undecodable=undecodable, latency_s=latency_s, **joined)


def pick_scores(rows: Sequence[tuple[Scores, int]]) -> Scores:
    """Return the scores of some listings, at least one, each given as a row of the batch that it was scored in."""
    picked: dict[str, Any] = {}
    for name in _ARRAYS:
        values = [getattr(scores, name) for scores, _ in rows]
        if any(value is None for value in values):
            picked[name] = None
            continue
        own = [value[row : row + 1] for value, (_, row) in zip(values, rows, strict=True)]
        # Most requests are one listing, and joining one array costs ten times what cutting it out does.
        picked[name] = own[0] if len(own) == 1 else np.concatenate(own)
    return Scores(undecodable=tuple(scores.undecodable[row] for scores, row in rows), **picked)
