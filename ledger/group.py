"""Group commit: what many callers write at the same time goes to the disk together, in one flush instead of many.

One thread writes. What comes while it is idle goes at once; what arrives while it writes makes the next group, so that
nobody waits for a timer.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final, Generic, TypeVar

from moderation.errors import TemporaryError

# A group that is larger saves hardly anything more, and holds back other writers of the file for longer.
MAX_ITEMS: Final = 256

_ItemT = TypeVar("_ItemT")

WriteEach = Callable[[Sequence[_ItemT]], Sequence[int | Exception]]


class WriterClosed(TemporaryError):
    """The process is ending and takes nothing any more; send it to another."""


class GroupWriter(Generic[_ItemT]):
    """Writes in groups, in the order in which it was asked; threads and event loops may share it.

    Args:
        name: of its thread.
        write_each: keeps the items of a group durably and returns for each a number, or the error that is its alone;
            what it raises is everybody's.
        max_items: of one group.
    """

    def __init__(
        self, name: str, write_each: WriteEach[_ItemT], *, max_items: int = MAX_ITEMS
    ) -> None:
        self._write_each, self._max_items = write_each, max_items
        self._waiting: deque[tuple[_ItemT, Future[int]]] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, item: _ItemT) -> "Future[int]":
        """Return the future of one item: done when it is durable, or failed with its own error.

        A future that could be cancelled was not written, and will not be.

        Raises:
            WriterClosed: after `close`.
        """
        future: Future[int] = Future()
        with self._changed:
            if self._is_closed:
                raise WriterClosed("nothing is written any more: the process is ending")
            self._waiting.append((item, future))
            self._changed.notify()
        return future

    def write(self, item: _ItemT) -> int:
        """Return what `submit` promises; waits for it."""
        return self.submit(item).result()

    def close(self, *, patience_s: float = 10.0) -> None:
        """Write what is waiting, and end; a disk that hangs is waited for no longer than `patience_s`."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(patience_s)

    def _run(self) -> None:
        while (group := self._take()) is not None:
            if group:
                self._write(group)

    def _take(self) -> list[tuple[_ItemT, "Future[int]"]] | None:
        """Return the next group without those that were cancelled; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            if not self._waiting:
                return None
            number = min(len(self._waiting), self._max_items)
            group = [self._waiting.popleft() for _ in range(number)]
        return [one for one in group if one[1].set_running_or_notify_cancel()]

    def _write(self, group: list[tuple[_ItemT, "Future[int]"]]) -> None:
        try:
            outcomes = self._write_each([item for item, _ in group])
        except Exception as error:  # the edge of a thread: whoever waits has to hear of it
            for _, future in group:
                future.set_exception(error)
            return
        for (_, future), outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
