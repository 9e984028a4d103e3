"""Training equals serving: the bundle, scored as it will be served, says what training computed."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from moderation.bundle import Bundle
from moderation.decision import STATUS_CODES, SignalStatus
from moderation.errors import PermanentError
from moderation.scoring import Scorer, ScoringItem
from moderation.signals import SignalTable
from moderation.snapshot import Snapshot

TOLERANCE: Final = 1e-3
"""Largest difference of a logit: both sides compute in float32, in another order."""

_NUM_ROWS: Final = 32
_COLUMNS: Final = ("title", "description", "image_digests", "behaviour")


def check_parity(
    bundle: Bundle,
    snapshot: Snapshot,
    signals: SignalTable,
    read_blob: Callable[[str], bytes],
    *,
    num_threads: int = 1,
) -> float:
    """Return the largest difference between a logit as trained and as served, over a sample of unseen rows.

    Args:
        bundle: is loaded by the scorer of the predictor.
        snapshot: gives the rows as they were submitted.
        signals: what the members said of the same rows in training.
        read_blob: gives the bytes of an image.
        num_threads: of the scorer.

    Raises:
        PermanentError: if it is larger than `TOLERANCE`, or a signal is there on one side only.
    """
    rows = _sample(signals)
    items = list(_items(snapshot, rows, read_blob))
    served = Scorer(bundle, num_threads).score(items)
    logits_NPM, status_NPM = signals.take(rows).natural()
    is_ok = status_NPM == STATUS_CODES[SignalStatus.OK]
    if (is_ok != (served.signal_status_NPM == STATUS_CODES[SignalStatus.OK])).any():
        raise PermanentError("the bundle misses a signal that training had, or the reverse")
    apart = np.abs(served.signals_NPM - logits_NPM)[is_ok]
    largest = float(apart.max(initial=0.0))
    if not largest <= TOLERANCE:
        raise PermanentError(
            f"the bundle's logits are up to {largest:.3g} off those of training ({TOLERANCE:g} is allowed): "
            "it must not be served"
        )
    return largest


def _sample(signals: SignalTable) -> npt.NDArray[np.int64]:
    """Return rows that the final members scored, spread over what listings consist of."""
    unseen_U = np.flatnonzero(signals.role != "train")
    if not len(unseen_U):
        return unseen_U
    step = max(len(unseen_U) // _NUM_ROWS, 1)
    order = np.argsort(signals.available()[unseen_U], kind="stable")
    return np.sort(unseen_U[order[::step]][:_NUM_ROWS])


def _items(
    snapshot: Snapshot, rows: npt.NDArray[np.int64], read_blob: Callable[[str], bytes]
) -> Iterator[ScoringItem]:
    wanted, first = set(rows.tolist()), 0
    for batch in snapshot.batches(list(_COLUMNS)):
        for number, record in enumerate(batch.to_pylist(), start=first):
            if number in wanted:
                yield _item(record, read_blob)
        first += batch.num_rows


def _item(record: dict[str, Any], read_blob: Callable[[str], bytes]) -> ScoringItem:
    behaviour = record["behaviour"]
    return ScoringItem(
        title=record["title"],
        description=record["description"],
        images=[read_blob(digest) for digest in record["image_digests"]],
        behaviour=None if behaviour is None else np.array(behaviour, np.float32),
    )
