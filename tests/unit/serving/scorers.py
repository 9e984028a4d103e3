"""A scorer whose time and failures a test sets; it remembers every batch."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from moderation.errors import InvalidListing
from moderation.scoring import PreparedItem, Scores, ScoringItem
from moderation.text import NgramText
from serving.predictor.preparing import Outcome, Tell

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


class PreparingThreads:
    """Prepares in this process, so that a test can hold it; one task of each thread at a time."""

    def __init__(self, prepare: Callable[[ScoringItem], PreparedItem], num: int = 1) -> None:
        self._prepare, self._num, self._running = prepare, num, 0
        self._pool = ThreadPoolExecutor(num)

    def has_room(self, *, is_urgent: bool = True) -> bool:
        return self._running < self._num

    def submit(self, items: Sequence[ScoringItem], tell: Tell) -> None:
        loop = asyncio.get_running_loop()
        self._running += 1
        self._pool.submit(self._run, items, tell, loop)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(
        self, items: Sequence[ScoringItem], tell: Tell, loop: asyncio.AbstractEventLoop
    ) -> None:
        outcomes = [self._outcome(item) for item in items]
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._end, outcomes, tell)

    def _end(self, outcomes: Sequence[Outcome], tell: Tell) -> None:
        self._running -= 1
        tell(outcomes)

    def _outcome(self, item: ScoringItem) -> Outcome:
        try:
            return Outcome(self._prepare(item), None, 0.0, 0.001)
        except RuntimeError as error:
            return Outcome(None, error, 0.0, 0.001)
