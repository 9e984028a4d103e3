"""The one writer of a feature store: whoever holds its lock folds the ledger into it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Final

from featurestore.layout import FeaturesNotReady, Place
from featurestore.letters import DeadLetters
from featurestore.stream import FeatureStream
from ledger.activity import FOLDED
from ledger.ledger import Ledger
from moderation.clock import Clock
from moderation.errors import FeatureStoreUnavailable, TemporaryError

_POLL_S: Final = 0.2
_PATIENCE_S: Final = 300.0
"""A stream that was just started folds the whole ledger before it goes on."""


class StoreBusy(TemporaryError):
    """Another process writes the feature store; let it, or stop it."""


@contextmanager
def writing(place: Place) -> Iterator[None]:
    """Be the one writer of a feature store for the length of the block.

    Raises:
        FeaturesNotReady: if nothing was set up.
        StoreBusy: if another process is.
    """
    if not place.folder.is_dir():
        raise FeaturesNotReady(f"{place.folder} holds no feature store: tidegate features apply")
    with (place.folder / "stream.lock").open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreBusy(
                f"another process writes {place.folder}: stop `tidegate features stream` first"
            ) from error
        yield


def letters_of(place: Place) -> DeadLetters:
    """Return what the stream of a feature store keeps of itself."""
    return DeadLetters(place.stream_file)


def open_stream(place: Place, ledger: Ledger, clock: Clock) -> FeatureStream:
    """Return the stream into a feature store; call it while `writing`.

    Raises:
        FeaturesNotReady: if nothing was set up, or another home writes the online store.
    """
    from featurestore.repository import open_store  # Feast takes seconds
    from featurestore.sinks import FeastSink

    return FeatureStream(ledger, FeastSink(open_store(place), place), letters_of(place), clock)


def catch_up(
    place: Place, ledger: Ledger, clock: Clock, *, patience_s: float = _PATIENCE_S
) -> None:
    """Bring a feature store to where the ledger is now, setting it up where that was not done.

    Where another process writes it, that one is waited for.

    Raises:
        FeatureStoreUnavailable: if the store cannot be written, or the process that writes it does not come this far.
    """
    head, deadline, pause = ledger.last_sequence(FOLDED), clock.monotonic() + patience_s, Event()
    place.folder.mkdir(parents=True, exist_ok=True)
    while not _has_come_to(place, head):
        try:
            set_up(place)
            with writing(place):
                open_stream(place, ledger, clock).step()
            return
        except StoreBusy as error:
            if clock.monotonic() > deadline:
                raise FeatureStoreUnavailable(
                    f"the process that writes {place.folder} has not come to event {head} of the ledger in "
                    f"{patience_s:.0f} s; look at what `tidegate features stream` says, or stop it"
                ) from error
        pause.wait(_POLL_S)


def _has_come_to(place: Place, head: int) -> bool:
    progress = letters_of(place).progress()
    return progress is not None and progress.sequence >= head


def set_up(place: Place) -> None:
    """Put this release's definitions into force, unless they are in force at this place.

    Raises:
        FeaturesNotReady: if the online store cannot be reached, or another home writes it.
        StoreBusy: if another process writes the store.
    """
    from featurestore.repository import apply, is_declared, open_store  # Feast takes seconds

    place.folder.mkdir(parents=True, exist_ok=True)
    with writing(place):
        try:
            open_store(place)
            is_ready = is_declared(place)
        except FeaturesNotReady:
            is_ready = False
        if not is_ready:
            apply(place)
