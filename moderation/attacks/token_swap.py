"""Greedy token swap: words of a listing exchanged for words of the tokenizer, ranked by gradient, judged by the scorer.

The text head and the fusion head are ranked to first order; the n-gram member, which has no tokens, by what it says of
each word alone. What is tried is always a real text, and what is kept is what the scorer likes least to flag.

W words of the vocabulary, T tokens, D width of a token, P policies.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from moderation.attacks.gradients import ENOUGH, Standing, TorchBundle
from moderation.decision import SIGNALS
from moderation.listing import MAX_DESCRIPTION_CHARS, MAX_TITLE_CHARS
from moderation.ngram import NgramModel
from moderation.text import model_text, ngram_texts

_NGRAM: Final = SIGNALS.index("ngram")
_MIN_LETTERS: Final = 2
_RANKS: Final = 2
"""Best words by each ranking that are tried; with dropping, seven texts a step."""

Losses = Callable[[Sequence["Words"]], npt.NDArray[np.float64]]
"""The scorer's loss of each of some texts, in the place of the listing's own."""


@dataclass(frozen=True)
class Words:
    """A listing's text, word by word; the words of the title come first."""

    words: tuple[str, ...]
    """An empty one was dropped."""

    num_title: int

    @classmethod
    def of(cls, title: str, description: str) -> "Words":
        """Return the words of a listing."""
        first = title.split()
        return cls((*first, *description.split()), len(first))

    @property
    def title(self) -> str:
        """The title as it would be submitted."""
        return " ".join(filter(None, self.words[: self.num_title]))

    @property
    def description(self) -> str:
        """The description as it would be submitted."""
        return " ".join(filter(None, self.words[self.num_title :]))

    @property
    def is_submittable(self) -> bool:
        """Whether it keeps the limits of a listing and says something."""
        fits = len(self.title) <= MAX_TITLE_CHARS and len(self.description) <= MAX_DESCRIPTION_CHARS
        return fits and any(self.words)

    def swapped(self, positions: Sequence[int], others: Sequence[str]) -> "Words":
        """Return the text with other words at some places."""
        words = list(self.words)
        for position, other in zip(positions, others, strict=True):
            words[position] = other
        return replace(self, words=tuple(words))


@dataclass(frozen=True)
class _Ranked:
    """How each free place would change, by its best words."""

    positions: list[int]
    """Most promising first."""

    choices: list[list[str]]
    """One list of words per text to try: a word for each place of `positions`."""


class TokenSwapper:
    """Swaps words under the gradients of one bundle."""

    def __init__(self, model: TorchBundle, ngram: NgramModel) -> None:
        self._model, self._ngram = model, ngram
        self._alone: dict[str, npt.NDArray[np.float64]] = {}
        self._tokens: dict[str, tuple[int, ...]] = {}

    def swap(
        self,
        text: Words,
        losses: Losses,
        images_1KD: Tensor | None,
        standing: Standing,
        *,
        max_swaps: int,
        steps: int,
    ) -> Words:
        """Return the text with at most `max_swaps` words exchanged or dropped, never all of them dropped.

        Args:
            text: the listing's.
            losses: judges texts by the scorer.
            images_1KD: embeddings of its images; None without any.
            standing: its other signals, and the policies that are attacked.
            max_swaps: places that may differ from the listing's own.
            steps: rounds of ranking and judging; each tries at most seven texts.
        """
        readable = {place for place, word in enumerate(text.words) if self._pieces(word)}
        per_step = -(-min(max_swaps, len(readable)) // max(steps, 1))
        best, changed, free = float(losses([text])[0]), set[int](), set(readable)
        for _ in range(steps):
            # Once all places were tried, those that differ already may be exchanged again.
            free = free or (readable if len(changed) < max_swaps else set(changed))
            left = max_swaps - len(changed)
            if not free or best < ENOUGH:
                break
            ranked = self._rank(text, images_1KD, standing, sorted(free), per_step)
            free = free - set(ranked.positions)
            tried = [text.swapped(ranked.positions, words) for words in ranked.choices]
            tried = [one for one in tried if one.is_submittable]
            if len(set(ranked.positions) - changed) > left or not tried:
                continue
            loss_of = losses(tried)
            if loss_of.min() < best:
                best, text = float(loss_of.min()), tried[int(loss_of.argmin())]
                changed |= set(ranked.positions)
        return text

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The words that are one token and come back as that token when the listing is read."""
        tokenizer, kept = self._model.tokenizer, list[str]()
        size = tokenizer.get_vocab_size()
        for token in range(size):
            word = tokenizer.decode([token]).strip()
            if len(word) < _MIN_LETTERS or not word.isalpha() or model_text(word, "") != word:
                continue
            if tokenizer.encode(word, add_special_tokens=False).ids == [token]:
                kept.append(word)
                self._tokens[word] = (token,)
        return tuple(kept)

    @cached_property
    def _vectors_WD(self) -> Tensor:
        ids = [self._pieces(word)[0] for word in self.vocabulary]
        return self._model.token_table_VD[ids]

    @cached_property
    def _ngram_WP(self) -> npt.NDArray[np.float64]:
        return self._ngram.logits([ngram_texts(word, "") for word in self.vocabulary])

    def _pieces(self, word: str) -> tuple[int, ...]:
        """Return the tokens of a word read by itself; none where nothing of it is left to read."""
        if word not in self._tokens:
            shown = model_text(word, "")
            found = self._model.tokenizer.encode(shown, add_special_tokens=False).ids
            self._tokens[word] = tuple(found)
        return self._tokens[word]

    def _ngram_of(self, word: str) -> npt.NDArray[np.float64]:
        if word not in self._alone:
            self._alone[word] = self._ngram.logits([ngram_texts(word, "")])[0]
        return self._alone[word]

    def _rank(
        self,
        text: Words,
        images_1KD: Tensor | None,
        standing: Standing,
        free: Sequence[int],
        num_places: int,
    ) -> _Ranked:
        """Return the places where a swap promises most, and the words to try there."""
        by_tokens_FW = self._by_tokens(text, images_1KD, standing, free)
        by_ngram_FW = self._by_ngram(text, standing, free)
        joint_FW = _scaled(by_tokens_FW) + _scaled(by_ngram_FW)
        order = np.argsort(joint_FW.min(axis=1), kind="stable")[:num_places]
        choices = [[""] * len(order)]
        for ranking_FW in (joint_FW, by_tokens_FW, by_ngram_FW):
            best_KR = np.argsort(ranking_FW[order], axis=1, kind="stable")[:, :_RANKS]
            choices += [[self.vocabulary[word] for word in best_K] for best_K in best_KR.T]
        return _Ranked([free[index] for index in order], choices)

    def _by_tokens(
        self, text: Words, images_1KD: Tensor | None, standing: Standing, free: Sequence[int]
    ) -> npt.NDArray[np.float64]:
        """Return the change of the loss by each word at each free place, to first order in the vectors."""
        pieces = [self._pieces(word) if word else () for word in text.words]
        starts = np.cumsum([0, *map(len, pieces)])
        sequence = self._model.framed([token for one in pieces for token in one])
        found = self._model.token_gradients(sequence, images_1KD, standing)
        table_VD, slope_TD = self._model.token_table_VD, found.slope_TD
        own_T = (slope_TD * table_VD[list(found.ids_T)]).sum(1)
        change_FW = np.zeros((len(free), len(self.vocabulary)))
        ends = [(int(starts[place]) + 1, int(starts[place + 1]) + 1) for place in free]
        # What is cut off is not read, so nothing there changes anything.
        read = {row: ends[row] for row in range(len(free)) if ends[row][1] < len(sequence)}
        if read:
            begin_R = [begin for begin, _ in read.values()]
            own_R = torch.stack([own_T[begin:end].sum() for begin, end in read.values()])
            change_WR = self._vectors_WD @ slope_TD[begin_R].T - own_R
            change_FW[list(read)] = change_WR.T.numpy()
        return change_FW

    def _by_ngram(
        self, text: Words, standing: Standing, free: Sequence[int]
    ) -> npt.NDArray[np.float64]:
        """Return the change of the n-gram member by each word at each free place, had it only that word to read."""
        columns = list(standing.policies)
        weight_P = self._model.weights(standing)[1][columns, _NGRAM]
        words_W = self._ngram_WP[:, columns] @ weight_P
        own_F = np.array([self._ngram_of(text.words[place])[columns] @ weight_P for place in free])
        change_FW: npt.NDArray[np.float64] = words_W - own_F[:, None]
        return change_FW


def _scaled(change_FW: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return changes in units of the largest promise, so that two rankings can be added."""
    largest = float(-change_FW.min(initial=0.0))
    scaled_FW: npt.NDArray[np.float64] = change_FW / largest if largest else change_FW * 0.0
    return scaled_FW
