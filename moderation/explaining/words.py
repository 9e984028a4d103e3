"""Words of a text by integrated gradients: what each adds to the score, with its place in the text as it came.

S steps, T tokens, V width of a token's vector.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from moderation.attacks.gradients import TorchBundle
from moderation.explaining.objective import Objective
from moderation.explaining.places import Places
from moderation.explanation import Piece, TextPart

STEPS: Final = 32
"""Nodes of the quadrature; the gap that is left is told with every explanation."""

_MOST_PIECES: Final = 40


@dataclass(frozen=True)
class Tokens:
    """A text as the tower reads it."""

    ids_T: tuple[int, ...]
    spans: tuple[tuple[int, int] | None, ...]
    """Where each token lies in the text that the tower reads; None of the special ones."""

    words: tuple[int | None, ...]
    """To which word each belongs."""


def tokens_of(model: TorchBundle, text: str) -> Tokens:
    """Return the tokens of a text that is not empty, cut as the tower cuts it."""
    found = model.tokenizer.encode(text, add_special_tokens=False)
    num_read = model.max_tokens - 2
    spans = (None, *found.offsets[:num_read], None)
    words = (None, *found.word_ids[:num_read], None)
    return Tokens(model.framed(found.ids), spans, words)


def explain_words(
    objective: Objective, places: Places, images_1KD: Tensor | None, *, steps: int = STEPS
) -> TextPart:
    """Return what each word adds to the log-odds, compared with the same text all padding.

    Args:
        objective: what is explained.
        places: of the listing's text in the tower's reading, which is not empty.
        images_1KD: embeddings of its images; None without any.
        steps: forward and backward passes.

    Source:
        Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks"; Gauss-Legendre nodes instead of a sum.
    """
    model = objective.model
    tokens = tokens_of(model, places.reading)
    score_T, total = _integrated(objective, tokens, images_1KD, steps)
    words: dict[int, list[int]] = {}
    for place, word in enumerate(tokens.words):
        if word is not None:
            words.setdefault(word, []).append(place)
    scored = []
    for members in words.values():
        spans = [span for place in members if (span := tokens.spans[place])]
        begin, end = min(span[0] for span in spans), max(span[1] for span in spans)
        scored.append((begin, end, float(sum(score_T[place] for place in members))))
    return summed(places.pieces(scored), total=total, whole=float(sum(score_T)))


def summed(pieces: Sequence[Piece], *, total: float, whole: float) -> TextPart:
    """Return the largest pieces; what they leave of `whole` is the rest, what `whole` misses of `total` the gap."""
    kept = sorted(pieces, key=lambda piece: -abs(piece.score))[:_MOST_PIECES]
    rest = whole - sum(piece.score for piece in kept)
    return TextPart(pieces=tuple(kept), rest=rest, total=total, gap=total - whole)


def _integrated(
    objective: Objective, tokens: Tokens, images_1KD: Tensor | None, steps: int
) -> tuple[list[float], float]:
    """Return score_T and what they should sum to."""
    model = objective.model
    ids_1T = torch.tensor([tokens.ids_T])
    padded_1T = ids_1T.clone()
    padded_1T[:, 1:-1] = model.tokenizer.token_to_id("[PAD]") or 0
    with torch.no_grad():
        actual_1TV = model.token_table_VD[ids_1T]
        path_1TV = actual_1TV - model.token_table_VD[padded_1T]
        ends_2 = torch.cat(
            [_odds(objective, ids_1T, actual_1TV - path_1TV * s, images_1KD) for s in (1.0, 0.0)]
        )
    node_S, weight_S = np.polynomial.legendre.leggauss(steps)
    total_1TV = torch.zeros_like(path_1TV)
    for node, weight in zip((node_S + 1) / 2, weight_S / 2, strict=True):
        vectors = (actual_1TV - path_1TV * (1 - float(node))).requires_grad_(True)
        odds = _odds(objective, ids_1T, vectors, images_1KD)
        (slope_1TV,) = torch.autograd.grad(odds.sum(), vectors)
        total_1TV += float(weight) * slope_1TV
    score_T: list[float] = (total_1TV * path_1TV).sum(-1)[0].double().tolist()
    return score_T, float(ends_2[1] - ends_2[0])


def _odds(
    objective: Objective, ids_1T: Tensor, vectors_1TV: Tensor, images_1KD: Tensor | None
) -> Tensor:
    tower = objective.model.text_tower
    with _replaced(tower.model, vectors_1TV):
        text_1D = tower(ids_1T, torch.ones_like(ids_1T))
    return objective.odds(images_1KD, text_1D)


@contextmanager
def _replaced(model: nn.Module, vectors_1TV: Tensor) -> Iterator[None]:
    """Let `model` read these vectors in place of its tokens'; an explainer's model is used by one thread at a time."""
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]  # of transformers, untyped
    handle = embedding.register_forward_hook(lambda module, inputs, output: vectors_1TV)
    try:
        yield
    finally:
        handle.remove()
