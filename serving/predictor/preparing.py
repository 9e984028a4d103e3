"""Where listings are prepared: processes beside the event loop, which outlive bytes that bring one of them down.

All calls come from the event loop, and so do the answers. A process has at most `_AHEAD` tasks, so that it never waits
for the next and nothing urgent waits long behind it. When one ends, another takes its place. What it had not begun is
asked again as it was; what it was at is asked again listing by listing, and a listing whose process ends a second time
fails alone. One that does not answer for `most_s` is ended.
"""

import asyncio
import logging
import math
import socket
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from moderation.errors import PermanentError
from moderation.scores import PreparedItem, ScoringItem
from moderation.text import NgramText
from serving.predictor.measures import PREPARERS_ENDED
from serving.predictor.preparer import LENGTH, READY, frame, question, unpacked

_LOG = logging.getLogger(__name__)

_AHEAD: Final = 2
"""Tasks of one process: what it is at, and what comes next."""

_MAX_STARTS: Final = 3
"""Processes in a row that end before they are ready; then something is wrong that no further one will mend."""

_START_S: Final = 60.0
_MOST_S: Final = 30.0
"""For one task: far longer than anybody waits for a decision, and than the largest photos take on a busy machine."""

_END_S: Final = 2.0
_READ_BYTES: Final = 2**18
_MAX_FRAME: Final = 2**26
"""Far beyond the largest answer; a process that announces more has gone wrong, and is not read to the end."""

_MALFORMED: Final = (struct.error, ValueError, TypeError, KeyError, OverflowError)


class PreparingFailed(PermanentError):
    """A listing could not be prepared."""


@dataclass(frozen=True)
class Outcome:
    """What became of one listing: one of `prepared` and `error`."""

    prepared: PreparedItem | None
    error: Exception | None
    begin_s: float
    """On the system's monotonic clock."""

    seconds: float


Tell = Callable[[Sequence[Outcome]], None]


class Preparing(Protocol):
    """Who prepares listings."""

    def has_room(self, *, is_urgent: bool = True) -> bool:
        """Return whether another task can be taken.

        Args:
            is_urgent: False for one that others may not have to wait for.
        """
        ...

    def submit(self, items: Sequence[ScoringItem], tell: Tell) -> None:
        """Prepare some listings, and tell their outcomes, in their order, on the event loop."""
        ...

    def close(self) -> None:
        """End; what is open is not told."""
        ...


@dataclass
class _Task:
    items: Sequence[ScoringItem]
    tell: Tell
    num_ends: int = 0
    """Processes that ended while they were at it."""


class PreparingProcesses:
    """As many processes as the plan says, ready when the constructor returns.

    Args:
        folder: of a verified bundle.
        num: processes.
        cores: of each; empty leaves them where the system puts them.
        on_broken: called once, when no process can be started any more; every task fails from then on.
        most_s: of one task; a process that is longer at it has gone wrong.

    Raises:
        PermanentError: if they do not start.
    """

    def __init__(
        self,
        folder: Path,
        num: int,
        cores: Sequence[frozenset[int]] = (),
        *,
        on_broken: Callable[[], None],
        most_s: float = _MOST_S,
    ) -> None:
        self._folder, self._on_broken, self._most_s = folder, on_broken, most_s
        self._num_failed_starts = 0
        self._is_broken = self._is_closed = False
        own = list(cores) or [frozenset[int]()] * num
        self._processes = [_Process(folder, own[n], most_s) for n in range(num)]
        try:
            for process in self._processes:
                process.wait_ready(_START_S)
        except PermanentError:
            self.close()
            raise

    def has_room(self, *, is_urgent: bool = True) -> bool:
        """Return whether another task can be taken; one that is not urgent leaves an idle process where it can.

        Args:
            is_urgent: False for one that others may not have to wait for: nothing is put behind it or it behind others.
        """
        if self._is_broken:
            return True
        if is_urgent:
            return any(len(one.tasks) < _AHEAD for one in self._processes)
        num_idle = sum(not one.tasks for one in self._processes)
        return num_idle > min(1, len(self._processes) - 1)

    @property
    def pids(self) -> list[int]:
        """The processes as they are now."""
        return [process.pid for process in self._processes]

    def submit(self, items: Sequence[ScoringItem], tell: Tell) -> None:
        """Prepare some listings; the process with the least to do takes them."""
        self._give(_Task(items, tell))

    def close(self) -> None:
        """End every process."""
        self._is_closed = True
        for process in self._processes:
            process.close()

    def _give(self, task: _Task) -> None:
        if self._is_broken:
            error = PreparingFailed("the processes that prepare listings do not start")
            asyncio.get_running_loop().call_soon(task.tell, _all_failed(task, error))
            return
        process = min(self._processes, key=lambda one: len(one.tasks))
        process.attach(asyncio.get_running_loop(), self._ended)
        process.send(task)

    def _ended(self, process: "_Process", why: str) -> None:
        """Start another process in its place, and ask again what it leaves."""
        if self._is_closed:
            return
        PREPARERS_ENDED.inc()
        code = process.close()
        left = [*process.tasks]
        process.tasks.clear()
        _LOG.error("a preparing process ended", extra={"why": why, "code": code, "open": len(left)})
        self._num_failed_starts = 0 if process.is_ready else self._num_failed_starts + 1
        place = self._processes.index(process)
        try:
            if self._num_failed_starts >= _MAX_STARTS:
                raise PermanentError(f"{_MAX_STARTS} in a row ended before they were ready")
            self._processes[place] = _Process(self._folder, process.cores, self._most_s)
        except (OSError, PermanentError) as error:
            _LOG.error("no preparing process can be started", extra={"reason": str(error)})
            self._break(left)
            return
        if left and process.is_ready:
            left[0:1] = _suspected(left[0])
        for task in left:
            self._give(task)

    def _break(self, left: Sequence[_Task]) -> None:
        self._is_broken = True
        for task in (*left, *(task for one in self._processes for task in one.tasks)):
            self._give(task)
        for process in self._processes:
            process.close()
        self._on_broken()


class _Process:
    """One process and what it has to do."""

    def __init__(self, folder: Path, cores: frozenset[int], most_s: float) -> None:
        self.cores, self.is_ready = cores, False
        self._most_s = most_s
        self._overdue: asyncio.TimerHandle | None = None
        self.tasks: deque[_Task] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_end: Callable[[_Process, str], None] | None = None
        self._read, self._unsent = bytearray(), deque[memoryview]()
        self._received = memoryview(bytearray(_READ_BYTES))
        self._socket, other = socket.socketpair()
        command = [sys.executable, "-m", "serving.predictor.preparer", "--bundle", str(folder)]
        with other:
            place = ["--socket", str(other.fileno()), "--cores", ",".join(map(str, cores))]
            try:
                self._child = subprocess.Popen(
                    [*command, *place], pass_fds=(other.fileno(),), stdin=subprocess.DEVNULL
                )
            except OSError:
                self._socket.close()
                raise

    @property
    def pid(self) -> int:
        return self._child.pid

    def wait_ready(self, seconds: float) -> None:
        """Wait until it said that it is ready.

        Raises:
            PermanentError: if it does not.
        """
        self._socket.settimeout(seconds)
        whole = len(frame(READY))
        try:
            while len(self._read) < whole and (data := self._socket.recv(whole - len(self._read))):
                self._read += data
            self._next()
        except (TimeoutError, ValueError) as error:
            _LOG.error("a preparing process is not ready", extra={"reason": str(error)})
        if not self.is_ready:
            raise PermanentError("a process that prepares listings did not start; its log says why")

    def attach(
        self, loop: asyncio.AbstractEventLoop, on_end: "Callable[[_Process, str], None]"
    ) -> None:
        """Let the event loop read what it answers; nothing the second time."""
        if self._loop is None:
            self._loop, self._on_end = loop, on_end
            self._socket.setblocking(False)
            loop.add_reader(self._socket, self._readable)

    def send(self, task: _Task) -> None:
        """Ask it, behind what it already has."""
        self.tasks.append(task)
        if len(self.tasks) == 1:
            self._watch()
        was_idle = not self._unsent
        self._unsent.append(memoryview(frame(question(task.items))))
        if was_idle:
            self._write()

    def close(self) -> int | None:
        """End it; return its exit status."""
        if self._overdue is not None:
            self._overdue.cancel()
        if self._loop is not None and not self._loop.is_closed() and self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        self._socket.close()
        # Closing asks it to end; one that is in the middle of a listing is not waited for.
        self._child.kill()
        with suppress(subprocess.TimeoutExpired):
            return self._child.wait(_END_S)
        return None

    def _write(self) -> None:
        assert self._loop is not None
        try:
            while self._unsent:
                sent = self._socket.send(self._unsent[0])
                if sent == len(self._unsent[0]):
                    self._unsent.popleft()
                else:
                    self._unsent[0] = self._unsent[0][sent:]
        except BlockingIOError:
            self._loop.add_writer(self._socket, self._write)
            return
        except OSError:  # reading tells that it ended
            self._unsent.clear()
        self._loop.remove_writer(self._socket)

    def _readable(self) -> None:
        assert self._on_end is not None
        try:
            num_bytes = self._socket.recv_into(self._received)
        except BlockingIOError:
            return
        except OSError as error:
            self._on_end(self, str(error))
            return
        if not num_bytes:
            self._on_end(self, "it closed its end")
            return
        self._read += self._received[:num_bytes]
        while True:
            try:
                content = self._next()
                if content is None:
                    return
                outcomes = read_outcomes(content, self.tasks[0].items if self.tasks else [])
            except _MALFORMED as error:
                self._on_end(self, f"its answer cannot be read: {error}")
                return
            self.tasks.popleft().tell(outcomes)
            self._watch()

    def _watch(self) -> None:
        """Give it its time for the task that is next, if there is one, or to become ready."""
        assert self._loop is not None
        if self._overdue is not None:
            self._overdue.cancel()
        seconds = self._most_s if self.is_ready else _START_S
        self._overdue = self._loop.call_later(seconds, self._late, seconds) if self.tasks else None

    def _late(self, seconds: float) -> None:
        assert self._on_end is not None
        if self.tasks:
            self._on_end(self, f"it did not answer for {seconds:g} s")

    def _next(self) -> bytes | None:
        """Return the next answer that was read whole; that it is ready is kept here.

        Raises:
            ValueError: if more is announced than an answer can have, or it does not begin as it must.
        """
        while len(self._read) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(self._read)[0]
            if end > _MAX_FRAME:
                raise ValueError(f"a frame of {end:,} bytes")
            if len(self._read) < end:
                return None
            content = bytes(memoryview(self._read)[LENGTH.size : end])
            del self._read[:end]
            if self.is_ready:
                return content
            if content != READY:
                raise ValueError("it does not say that it is ready")
            self.is_ready = True
            if self._loop is not None:
                self._watch()
        return None


def read_outcomes(content: bytes, items: Sequence[ScoringItem]) -> list[Outcome]:
    """Return what a process answered about `items`, in their order.

    Raises:
        ValueError: or another of `_MALFORMED`, if it is no such answer.
    """
    facts, begin = unpacked(content)
    if not items:
        raise ValueError("nothing was asked")
    outcomes = []
    for fact, item in zip(facts, items, strict=True):
        told, prepared, error = fact["prepared"], None, None
        if told is None:
            error = PreparingFailed(f"the listing cannot be prepared: {fact['error']}")
        else:
            tokens_T = None
            if told["tokens"] is not None:
                tokens_T, begin = _array(content, begin, (told["tokens"],), np.dtype(np.int64))
                tokens_T = tokens_T.copy()  # where it lies is no whole number of its elements
            images: list[npt.NDArray[np.uint8] | None] = []
            for shape in told["images"]:
                pixels_HWC = None
                if shape is not None:
                    pixels_HWC, begin = _array(content, begin, shape, np.dtype(np.uint8))
                images.append(pixels_HWC)
            if len(images) != len(item.images):
                raise ValueError(f"{len(images)} images for {len(item.images)}")
            normalised, folded, signs = told["ngram"]
            ngram = NgramText(normalised, folded, tuple(signs))
            prepared = PreparedItem(
                tuple(images), tokens_T, ngram, item.behaviour, item.behaviour_status
            )
        times = float(fact["begin_s"]), float(fact["seconds"])
        outcomes.append(Outcome(prepared, error, *times))
    return outcomes


def _array(
    content: bytes, begin: int, shape: Sequence[int], kind: np.dtype[Any]
) -> tuple[npt.NDArray[Any], int]:
    if min(shape) < 0:
        raise ValueError(f"an array of shape {shape}")
    size = math.prod(shape)
    array = np.frombuffer(content, kind, size, begin).reshape(shape)
    return array, begin + size * kind.itemsize


def _suspected(task: _Task) -> list[_Task]:
    """Return a task that a process ended at, to be asked again: listing by listing, or not at all."""
    if len(task.items) > 1:
        return _alone(task)
    if task.num_ends:
        error = PreparingFailed("the listing ended two processes that prepared it")
        asyncio.get_running_loop().call_soon(task.tell, _all_failed(task, error))
        return []
    return [_Task(task.items, task.tell, task.num_ends + 1)]


def _alone(task: _Task) -> list[_Task]:
    """Return one task for each listing; when the last has its outcome, all are told together."""
    found: dict[int, Outcome] = {}

    def keep(place: int, outcomes: Sequence[Outcome]) -> None:
        found[place] = outcomes[0]
        if len(found) == len(task.items):
            task.tell([found[n] for n in range(len(task.items))])

    def keeper(place: int) -> Tell:
        return lambda outcomes: keep(place, outcomes)

    return [_Task([item], keeper(place), num_ends=1) for place, item in enumerate(task.items)]


def _all_failed(task: _Task, error: Exception) -> list[Outcome]:
    return [Outcome(None, error, 0.0, 0.0)] * len(task.items)
