"""A scorer whose time and failures a test sets; it remembers every batch."""

import threading
from collections.abc import Sequence

import numpy as np

from moderation.errors import InvalidListing
from moderation.scoring import PreparedItem, Scores, ScoringItem
from moderation.text import NgramText

P, M = 3, 5


class FakeScorer:
    """Scores by the length of the title; remembers the threads it ran on, and what was prepared and scored."""

    def __init__(self) -> None:
        self.threads: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.prepare_gate = threading.Event()
        self.prepare_gate.set()
        self.prepared: list[str] = []
        self.batches: list[list[str]] = []

    @property
    def scored(self) -> list[str]:
        return [title for batch in self.batches for title in batch]

    def prepare(self, item: ScoringItem) -> PreparedItem:
        self.prepare_gate.wait(5)
        if item.title == "unreadable":
            raise RuntimeError("cannot be prepared")
        self.prepared.append(item.title)
        return PreparedItem((), None, NgramText(item.title, "", ()), None, None)

    def score_prepared(
        self, prepared: Sequence[PreparedItem], *, with_embeddings: bool = False
    ) -> Scores:
        titles = [one.ngram.normalised for one in prepared]
        self.batches.append(titles)
        self.gate.wait(5)
        self.threads.add(threading.current_thread().name)
        if "refuse me" in titles:
            raise InvalidListing("items[0].title", "is refused")
        if "poison" in titles:
            raise RuntimeError("the engine failed")
        num_items = len(titles)
        length_N = np.array([len(title) for title in titles], np.float64)
        status_NPM = np.zeros((num_items, P, M), np.int8)
        status_NPM[:, :, 1] = 1
        signals_NPM = np.where(status_NPM == 0, length_N[:, None, None] / 3, np.nan)
        embedding_ND = np.ones((num_items, 4), np.float32) if with_embeddings else None
        return Scores(
            np.repeat(length_N[:, None] / 100, P, axis=1),
            signals_NPM,
            status_NPM,
            np.full((num_items, P), -1, np.int32),
            ((),) * num_items,
            embedding_ND,
            embedding_ND,
        )
