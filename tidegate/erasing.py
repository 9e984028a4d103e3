"""A seller erased from a home: the key first, then everything that is kept under another name; a receipt at the end.

Each part may be done again, so that an erasure which was cut off goes on where it is asked for again.
"""

import fcntl
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from threading import Event as Pause
from typing import Any, Final

from components.home import Home
from featurestore.layout import FeaturesNotReady, Place
from featurestore.writer import StoreBusy, open_stream, writing
from ledger.erasures import Belongings, Erasure
from ledger.events import Event, EventKind, StoredEvent, to_submission
from ledger.importing import partial_report
from ledger.ledger import SqliteLedger, UnknownSeller
from ledger.spill import num_under
from ledger.store import ContentStore
from moderation.clock import Clock
from moderation.embedding_cache import EmbeddingCache
from moderation.embedding_plan import text_key
from moderation.errors import FeatureStoreUnavailable, TemporaryError
from moderation.golden import golden_versions

PATIENCE_S: Final = 60.0
"""How long a running stream is waited for: it looks every second, and then folds the whole ledger again."""

_POLL_S: Final = 0.2

_LEFT: Final = {
    "runs": "tables of past pipeline runs, frozen; delete the runs that you no longer compare with",
    "reports": "evidence packs and reports of past bundles, frozen; they quote listings that were judged wrongly",
    "mlruns": "what past runs logged; the same reports",
    "logs": "what serving processes said: ids of submissions, listings and traces; delete what you no longer need",
    "bundles": "aggregates alone: weights, thresholds and counts; no row of a seller",
}


class ImportRuns(TemporaryError):
    """An import writes its report, maybe of the erased seller; erase again when it is done."""


@dataclass(frozen=True)
class Receipt:
    """What was done about one erasure; it does not say whose it was."""

    key_id: str
    erased_at: str
    """When the key was destroyed: since then nothing that was sealed can be read, in no copy of the files either."""

    is_finished: bool
    finished_at: str | None
    removed: Mapping[str, int]
    left: Mapping[str, str]
    """What is not removed: where it lies, and until when."""

    pending: str | None = None
    """What is still to be done, and by whom."""

    def text(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self), indent=1)


def belonging(events: Iterable[StoredEvent]) -> Belongings:
    """Return what is kept of a seller outside the ledger, from all its events."""
    sequences, submissions = list[int](), dict[str, None]()
    listings, devices, addresses = dict[str, None](), dict[str, None](), dict[str, None]()
    contents = dict[str, None]()
    for stored in events:
        sequences.append(stored.sequence)
        submissions[stored.event.submission_id] = None
        if stored.event.kind is not EventKind.SUBMISSION:
            continue
        submission = to_submission(stored.event)
        listing = submission.listing
        listings[listing.listing_id] = None
        for known, value in (
            (devices, listing.device_fingerprint),
            (addresses, listing.address_fingerprint),
        ):
            if value is not None:
                known[value] = None
        contents[text_key(listing.title, listing.description).hex()] = None
        contents |= dict.fromkeys(submission.image_digests)
    return Belongings(
        tuple(sequences),
        tuple(submissions),
        tuple(listings),
        tuple(devices),
        tuple(addresses),
        tuple(contents),
    )


class Eraser:
    """Erases sellers from one home."""

    def __init__(
        self,
        home: Home,
        place: Place,
        clock: Clock,
        *,
        patience_s: float = PATIENCE_S,
        spill_folder: Path | None = None,
    ) -> None:
        self._spill_folder = spill_folder or home.folder / "spill"
        self._home, self._place, self._clock, self._patience_s = home, place, clock, patience_s
        self._ledger = SqliteLedger(home.ledger)
        self._store = ContentStore(home.content)

    def erase(self, seller_id: str) -> list[Receipt]:
        """Erase a seller, or go on with what was begun; return a receipt for each key that was destroyed.

        There are several where the seller came back before an earlier erasure was finished. One that the feature store
        still has to do its part of says so, and is finished by asking again.

        Raises:
            UnknownSeller: if nothing of this seller is there, and nothing was begun.
            TemporaryError: if a file cannot be written now; ask again.
        """
        erasures = self._ledger.erasures
        try:
            self._ledger.erase(seller_id, belonging, self._clock.now())
        except UnknownSeller:
            if not erasures.unfinished(seller_id):
                raise
        return [self._go_on(one) for one in erasures.unfinished(seller_id)]

    def _go_on(self, erasure: Erasure) -> Receipt:
        path = self._home.receipts / f"{erasure.key_id}.json"
        if erasure.seller_id is None:  # cut off at the very last step
            self._ledger.erasures.finish(erasure.key_id, self._clock.now())
            return Receipt(**json.loads(path.read_text(encoding="utf-8")))
        self._remove(erasure)
        pending = self._erase_features(erasure)
        (done,) = (one for one in self._ledger.erasures.all() if one.key_id == erasure.key_id)
        left = self._left(done)
        if pending:
            return _receipt(done, left, None, pending)
        now = self._clock.now()
        self._ledger.append([_event(done, now)])
        receipt = _receipt(done, left, now.isoformat(), None)
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, receipt.text() + "\n")
        self._ledger.erasures.finish(done.key_id, now)
        return receipt

    def _remove(self, erasure: Erasure) -> None:
        """Remove what lies in the home by name; the blobs last, as they say which embeddings there are."""
        belongings, home, seller_id = erasure.belongings, self._home, erasure.seller_id
        submissions, listings = set(belongings.submissions), set(belongings.listings)
        digests = self._store.sealed_under(erasure.key_id)
        parts: dict[str, Callable[[], int]] = {
            "embeddings": lambda: _forget_embeddings(
                home.embeddings, {*digests, *belongings.contents}
            ),
            "embeddings_of_attacked_listings": lambda: _forget_attacked(home.embeddings),
            "hard_examples": lambda: _drop_hard_examples(home.hard_examples, submissions),
            "import_report_lines": lambda: _drop_report_lines(home.imported, listings),
            "unseen_listings": lambda: _drop_lines(
                home.unseen, lambda line: line["listing"].get("seller_id") == seller_id
            ),
            "blobs": lambda: self._store.remove(erasure.key_id),
        }
        for name, remove in parts.items():
            self._ledger.erasures.note(erasure.key_id, {name: remove()})

    def _erase_features(self, erasure: Erasure) -> str | None:
        """Have the one writer of the feature store do its part; return what is pending, None where it is done."""
        deadline, pause = self._clock.monotonic() + self._patience_s, Pause()
        while self._is_in_features(erasure.key_id):
            try:
                with writing(self._place):
                    open_stream(self._place, self._ledger, self._clock).step()
            except FeaturesNotReady as error:
                if self._place.folder.is_dir():
                    return f"{error}; then erase again"
                self._ledger.erasures.note_features(erasure.key_id, {}, self._clock.now())
            except FeatureStoreUnavailable as error:
                return f"the feature store does not answer ({error}); erase again when it does"
            except StoreBusy:
                if self._clock.monotonic() > deadline:
                    return (
                        "the process that writes the feature store has not done its part yet; look at what "
                        "`tidegate features stream` says, or stop it, then erase again"
                    )
                pause.wait(_POLL_S)
        return None

    def _is_in_features(self, key_id: str) -> bool:
        return any(one.key_id == key_id for one in self._ledger.erasures.in_features())

    def _left(self, erasure: Erasure) -> dict[str, str]:
        left = {
            f"{self._home.folder / name}": why
            for name, why in _LEFT.items()
            if (self._home.folder / name).exists()
        }
        submissions = set(erasure.belongings.submissions)
        for golden in golden_versions(self._home.golden):
            ids = golden.table.column("submission_id").tolist()
            if number := sum(one in submissions for one in ids):
                left[f"{golden.folder}"] = (
                    f"{number} golden items, frozen; the next `tidegate golden rotate` leaves them out, and this "
                    "version may be deleted when no bundle that was judged on it serves"
                )
        if number := num_under(self._spill_folder, erasure.key_id):
            left[f"{self._spill_folder}"] = (
                f"{number} frames that nobody can read any more; the gateway lets go of them when it moves its spill "
                "to the ledger, and what is kept aside there may be deleted"
            )
        if number := self._ledger.num_about(erasure.key_id):
            left[f"{self._home.ledger}"] = (
                f"{number} events that named no seller, about submissions of this one: ids, times and verdicts"
            )
        return left


def _event(erasure: Erasure, now: datetime) -> Event:
    at = erasure.erased_at
    payload = {
        "key_id": erasure.key_id,
        "erased_at": at.isoformat(),
        "removed": dict(erasure.counts),
    }
    return Event(f"erasure:{erasure.key_id}", EventKind.ERASURE, "", None, at, now, payload)


def _receipt(
    erasure: Erasure, left: Mapping[str, str], finished_at: str | None, pending: str | None
) -> Receipt:
    return Receipt(
        erasure.key_id,
        erasure.erased_at.isoformat(),
        pending is None,
        finished_at,
        dict(erasure.counts),
        left,
        pending,
    )


def _forget_embeddings(path: Path, contents: Collection[str]) -> int:
    if not path.is_file():
        return 0
    with closing(EmbeddingCache(path)) as cache:
        return cache.forget(map(bytes.fromhex, contents))


def _forget_attacked(path: Path) -> int:
    """Forget what was made of anybody's listings: a proof makes it again of those that are still there."""
    if not path.is_file():
        return 0
    with closing(EmbeddingCache(path)) as cache:
        return cache.forget_made()


def _drop_hard_examples(folder: Path, submissions: Collection[str]) -> int:
    """Drop the lines about some submissions, and the pictures that no line names any more."""
    files = sorted(folder.glob("*.jsonl"))
    number = sum(
        _drop_lines(path, lambda line: line["submission_id"] in submissions) for path in files
    )
    if number:
        lines = [json.loads(line) for path in files for line in path.read_text().splitlines()]
        named = {one for line in lines for one in (line["attacked"] or {}).get("images", ())}
        for picture in (folder / "images").glob("*.jpg"):
            if picture.stem not in named:
                picture.unlink(missing_ok=True)
    return number


def _drop_report_lines(path: Path, listings: Collection[str]) -> int:
    """Drop the lines about some listings, and all that an import which was killed left of its report."""
    partial = partial_report(path)
    if partial.is_file():
        with partial.open() as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ImportRuns(
                    "an import is running; the key is destroyed, erase again when the import is done"
                ) from error
            partial.unlink(missing_ok=True)
    return _drop_lines(path, lambda line: line.get("listing_id") in listings)


def _drop_lines(path: Path, is_of_seller: Callable[[dict[str, Any]], bool]) -> int:
    """Drop lines of a file of JSON lines, and what an erasure that was killed left of it; return how many."""
    for partial in path.parent.glob(f".{path.name}.*"):
        partial.unlink(missing_ok=True)
    if not path.is_file():
        return 0
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if not line.strip() or not is_of_seller(json.loads(line))]
    if len(kept) < len(lines):
        _replace(path, "".join(kept))
    return len(lines) - len(kept)


def _replace(path: Path, text: str) -> None:
    """Write a file that is whole or as it was."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
