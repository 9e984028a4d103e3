"""What is a sum already: the n-gram member's features at their places, and the behaviour trees' contributions."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from moderation.boosting import BoostingModel
from moderation.explaining.places import Places
from moderation.explaining.words import summed
from moderation.explanation import BehaviourPart, FeatureShare, Piece, TextPart
from moderation.features import FEATURE_NAMES
from moderation.ngram import NgramModel
from moderation.ngram_features import placed_features
from moderation.text import ngram_texts

Floats = npt.NDArray[np.float64]


def explain_ngrams(ngram: NgramModel, title: str, description: str, policy: int) -> TextPart:
    """Return what each word adds to the n-gram member's logit; what the signs of obfuscation add is in the rest.

    A feature's weight is shared by its occurrences, and an occurrence's by its characters.

    Args:
        ngram: the member.
        title: of a listing.
        description: of the listing.
        policy: column of the policy.
    """
    read = ngram_texts(title, description)
    total = float(ngram.logits([read])[0, policy])
    forms = (read.normalised, read.folded)
    score_of_forms = [np.zeros(len(form)) for form in forms]
    for of_words in (False, True):
        chosen = (1,) if of_words else (0, 1)  # words are read from the folded form alone
        placed = {form: placed_features(forms[form], of_words=of_words) for form in chosen}
        bucket_G = np.concatenate([one.bucket_G for one in placed.values()])
        distinct, slot_G, count = np.unique(bucket_G, return_inverse=True, return_counts=True)
        score = ngram.weights_of(distinct, policy) / np.sqrt(max(len(distinct), 1)) / count
        ends = np.cumsum([len(one.bucket_G) for one in placed.values()])
        for (form, one), slots in zip(placed.items(), np.split(slot_G, ends[:-1]), strict=True):
            _spread(score_of_forms[form], score[slots], one.begin_G, one.end_G)
    pieces = _merged(
        [
            piece
            for is_folded, score_N in enumerate(score_of_forms)
            for piece in _words(title, description, score_N, is_folded=bool(is_folded))
        ]
    )
    return summed(pieces, total=total, whole=total)


def explain_behaviour(
    boosting: BoostingModel, behaviour_F: npt.NDArray[np.float32], policy: int
) -> BehaviourPart:
    """Return what each behaviour feature adds to the trees' logit, largest first.

    Args:
        boosting: the member.
        behaviour_F: NaN where missing, not all of them.
        policy: column of the policy.
    """
    score_F, base = boosting.contributions(behaviour_F, policy)
    shares = [
        FeatureShare(
            feature=name, value=float(value) if np.isfinite(value) else None, score=float(score)
        )
        for name, value, score in zip(FEATURE_NAMES, behaviour_F, score_F, strict=True)
    ]
    shares.sort(key=lambda share: -abs(share.score))
    return BehaviourPart(base=base, features=tuple(shares))


def _spread(
    score_N: Floats,
    score_G: Floats,
    begin_G: npt.NDArray[np.int64],
    end_G: npt.NDArray[np.int64],
) -> None:
    """Add each occurrence's score to its characters; those of spaces around the text have none."""
    length_G = end_G - begin_G
    shared_G = np.divide(score_G, length_G, out=np.zeros_like(score_G), where=length_G > 0)
    steps = np.zeros(len(score_N) + 1)
    np.add.at(steps, begin_G, shared_G)
    np.add.at(steps, end_G, -shared_G)
    score_N += np.cumsum(steps)[:-1]


def _words(title: str, description: str, score_N: Floats, *, is_folded: bool) -> list[Piece]:
    """Return each word of one form with the score of its characters and of the space behind it."""
    places = Places.of_ngrams(title, description, is_folded=is_folded)
    scored, begin = [], 0
    for word in places.reading.split():
        start = places.reading.index(word, begin)
        end = start + len(word)
        scored.append((start, end, float(score_N[start : end + 1].sum())))
        begin = end
    return places.pieces(scored)


def _merged(pieces: Sequence[Piece]) -> list[Piece]:
    """Return the pieces of both forms, those at one place as one."""
    found: dict[tuple[str, int, int], Piece] = {}
    for piece in pieces:
        key = (piece.field, piece.begin, piece.end)
        score = piece.score + (found[key].score if key in found else 0.0)
        found[key] = piece.model_copy(update={"score": score})
    return list(found.values())
