"""A recorded decision's inputs out of the content store: the listing, its images, the behaviour as it was used."""

import re
from typing import Final

import numpy as np
import numpy.typing as npt

from ledger.store import ContentStore
from moderation.decision import STATUS_CODES, Attempt, Decision, SignalStatus
from moderation.errors import PermanentError
from moderation.features import FEATURE_NAMES
from moderation.listing import Listing

_IMAGE: Final = re.compile(r"image\.\d+")


def answer_of(decision: Decision) -> Attempt | None:
    """Return the answer of the release that decided, maybe about an earlier upload; None where no release did."""
    answer = next((attempt for attempt in decision.attempts if attempt.role == "answer"), None)
    return answer if answer is not None and answer.status == "ok" else None


def listing_of(decision: Decision, store: ContentStore) -> Listing:
    """Return the listing that was decided.

    Raises:
        ContentMissing: if the store does not hold it any more.
        PermanentError: if the stored bytes are no listing.
    """
    return listing_in(store, decision.input_digests["listing"])


def listing_in(store: ContentStore, digest: str, seller_id: str | None = None) -> Listing:
    """Return a stored listing; arguments as of `ContentStore.get`.

    Raises:
        ContentMissing: if the store does not hold it any more.
        PermanentError: if the stored bytes are no listing.
    """
    data = store.get(digest, seller_id)
    try:
        return Listing.model_validate_json(data)
    except ValueError as error:
        raise PermanentError(f"the stored listing cannot be read: {error}") from error


def image_digests(decision: Decision) -> tuple[str, ...]:
    """Return the digests of the images that were decided, in order."""
    num_images = sum(_IMAGE.fullmatch(name) is not None for name in decision.input_digests)
    return tuple(decision.input_digests[f"image.{k}"] for k in range(num_images))


def behaviour_of(decision: Decision) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8]]:
    """Return behaviour_F and its status as they were used; a feature that is newer than the decision is missing."""
    features = {feature.name: feature for feature in decision.features}
    values_F = np.zeros(len(FEATURE_NAMES), np.float32)
    status_F = np.full(len(FEATURE_NAMES), STATUS_CODES[SignalStatus.MISSING], np.int8)
    for place, name in enumerate(FEATURE_NAMES):
        if name in features:
            values_F[place] = features[name].value or 0.0
            status_F[place] = STATUS_CODES[features[name].status]
    return values_F, status_F
