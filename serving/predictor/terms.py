"""What a request to the queue is: its listings, its terms, how it can end without an answer."""

import asyncio
import math
from collections.abc import Sequence
from contextvars import copy_context
from dataclasses import dataclass
from typing import Literal, Protocol

from moderation.errors import TemporaryError
from moderation.scoring import PreparedItem, Scores
from serving.predictor.backlog import Entry, Priority

Reason = Literal["refused", "late", "cancelled"]


class Overloaded(TemporaryError):
    """There is no room, or no time left behind those who wait; come back after `delay_s`."""


class TooLate(TemporaryError):
    """The deadline can no longer be met; nothing was computed."""


class Scoring(Protocol):
    """What turns prepared listings into scores; a loaded bundle does."""

    def score_prepared(
        self, prepared: Sequence[PreparedItem], *, with_embeddings: bool = False
    ) -> Scores:
        """Return the scores of one batch; called from several threads."""
        ...


@dataclass(frozen=True)
class Terms:
    """Under what a request waits."""

    priority: Priority = Priority.UPLOAD
    deadline_s: float = math.inf
    """On the queue's clock."""

    num_bytes: int = 0
    """Size of the whole request."""

    with_embeddings: bool = False


class Request:
    """The listings of one call on their way, and whom to tell."""

    def __init__(self, terms: Terms, future: asyncio.Future[None]) -> None:
        self.terms = terms
        self.future = future
        self.context = copy_context()
        """Of the caller: what is done for it elsewhere belongs to its trace."""

        self.entries: list[Entry] = []
        self.num_open = 0
        """Listings without a result yet."""

    @property
    def is_over(self) -> bool:
        """Whether it was answered, refused or cancelled: nothing of it needs computing any more."""
        return self.future.done()
