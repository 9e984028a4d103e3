"""Events of the ledger become rows: behaviour as it was at each submission, truth as it was known at the cut-off.

Two passes keep memory at the size of the truth: the first collects what was established, the second streams the
submissions and asks, many at once, what was known before each.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ledger.activity import FOLDED
from ledger.events import (
    EventKind,
    to_ground_truth,
    to_reversal,
    to_submission,
)
from ledger.ledger import Ledger
from moderation.features import FEATURE_NAMES
from moderation.listing import GroundTruth, Reversal, Submission, TruthSource, is_mature
from moderation.snapshot import SnapshotRow

Floats = npt.NDArray[np.float32]
BehaviourAt = Callable[[Sequence[Submission]], Floats]
"""N uploads -> what was known just before each, behaviour_NF."""

IsWanted = Callable[[Submission, bool], bool]

_BATCH_ROWS: Final = 1_024
_ASKED_ROWS: Final = 20_000
"""Uploads of one question: each reads the whole history once."""
_SCHEMA: Final = pa.schema(
    [
        ("submission", pa.string()),
        ("behaviour", pa.list_(pa.float32())),
        ("served", pa.list_(pa.float32())),
        ("truth", pa.string()),
        ("propensity", pa.float64()),
        ("adjudicated", pa.list_(pa.string())),
        ("suspected", pa.bool_()),
    ]
)
_AT_RANDOM: Final = (TruthSource.AUDIT, TruthSource.IMPORT)
"""Who looks without anything having pointed at the submission."""

ESTABLISHING: Final = (EventKind.GROUND_TRUTH, EventKind.REVERSAL)
"""Kinds of event after which more is known of a submission."""


@dataclass
class Established:
    """What was found out about one submission by the cut-off.

    A reversal counts as no review. A review came before it, and gives the chance that the truth was looked for. Where
    none did, only what was enforced wrongly is ever reversed: no chance is known, and the submission stands for itself
    alone, with weight 1.
    """

    reversals: dict[str, Reversal] = field(default_factory=dict)
    """The latest by policy."""

    by_policy: dict[str, GroundTruth] = field(default_factory=dict)
    reviews: dict[tuple[str, datetime], float] = field(default_factory=dict)

    def undo(self, reversal: Reversal, policies: Iterable[str]) -> None:
        """Take note of a reversal, before any truth."""
        for policy in policies:
            known = self.reversals.setdefault(policy, reversal)
            if known.reversed_at < reversal.reversed_at:
                self.reversals[policy] = reversal

    def add(self, truth: GroundTruth) -> None:
        """Take note of a truth, after all reversals."""
        self.reviews[truth.source, truth.reviewed_at] = truth.propensity
        reversal, known = self.reversals.get(truth.policy), self.by_policy.get(truth.policy)
        if reversal is not None and reversal.outranks(truth):
            return
        if known is None or _strength(truth) >= _strength(known):
            self.by_policy[truth.policy] = truth

    @property
    def violates(self) -> dict[str, bool]:
        """What holds, by policy; one that is not there is unknown."""
        found = dict.fromkeys(self.reversals, False)
        found |= {policy: truth.violates for policy, truth in self.by_policy.items()}
        return dict(sorted(found.items()))

    @property
    def adjudicated(self) -> frozenset[str]:
        """Policies whose truth, the strongest that there is, was confirmed; a reversal is."""
        reversed_only = self.reversals.keys() - self.by_policy.keys()
        return frozenset(
            reversed_only | {p for p, truth in self.by_policy.items() if truth.adjudicated}
        )

    @property
    def is_suspected(self) -> bool:
        """Whether a flag, a report or an appeal led to a review, or something had been enforced."""
        return bool(self.reversals) or any(source not in _AT_RANDOM for source, _ in self.reviews)

    @property
    def propensity(self) -> float:
        """Chance that at least one of the reviews took place; reviews were drawn independently. 1 without any."""
        missed = 1.0 if self.reviews else 0.0
        for propensity in self.reviews.values():
            missed *= 1.0 - propensity
        return 1.0 - missed


def _strength(truth: GroundTruth) -> tuple[bool, bool, datetime]:
    """Order truths about the same question: a finished appeal, then a second opinion, then the newest."""
    return truth.source is TruthSource.APPEAL, truth.adjudicated, truth.reviewed_at


def read_rows(
    ledger: Ledger,
    cut_off: datetime,
    policy_ids: Sequence[str],
    behaviour_at: BehaviourAt,
    is_wanted: IsWanted = lambda submission, has_truth: True,
) -> Iterator[SnapshotRow]:
    """Yield one row per submission until `cut_off`, in time order; images are not hashed yet.

    Args:
        ledger: events.
        cut_off: nothing that became known later is in a row.
        policy_ids: whose truth is wanted.
        behaviour_at: gives what was known just before each of N uploads, behaviour_NF; see `components.behaviour`.
        is_wanted: tells by an upload, and by whether any truth is known of it, if it is to be a row; the behaviour
            behind others, which costs most, is not asked for.
    """
    established = established_by(ledger, cut_off, policy_ids)
    has_decisions = ledger.last_sequence((EventKind.DECISION,)) > 0
    events = ledger.read((EventKind.SUBMISSION,), until=cut_off, in_time_order=True)
    uploads = (to_submission(stored.event) for stored in events)
    wanted = (one for one in uploads if is_wanted(one, _has_truth(established, one)))
    while chunk := list(islice(wanted, _ASKED_ROWS)):
        behaviour_NF = behaviour_at(chunk)
        for submission, behaviour_F in zip(chunk, behaviour_NF, strict=True):
            known = established.get(submission.submission_id, Established())
            yield SnapshotRow(
                submission=submission,
                behaviour_F=None if np.isnan(behaviour_F).all() else behaviour_F,
                truth=known.violates,
                propensity=known.propensity,
                adjudicated=known.adjudicated,
                is_suspected=known.is_suspected,
                served_F=served(ledger, submission, cut_off) if has_decisions else None,
            )


def served(ledger: Ledger, submission: Submission, until: datetime) -> Floats | None:
    """Return the behaviour that a decision by `until` used, NaN where it had none; None where none used its own."""
    stored = ledger.get_event(f"decision:{submission.submission_id}")
    if stored is None or stored.event.occurred_at > until:
        return None
    if stored.event.payload.get("duplicate_of"):
        return None  # the features are those of another upload
    used = {one["name"]: one["value"] for one in stored.event.payload["features"]}
    values = [used.get(name) for name in FEATURE_NAMES]
    return np.array([np.nan if value is None else value for value in values], np.float32)


def data_version(ledger: Ledger, cut_off: datetime) -> str:
    """Return a digest of every event that a run with this cut-off can see."""
    digest = hashlib.sha256(cut_off.isoformat().encode())
    for stored in ledger.read(FOLDED, until=cut_off):
        digest.update(f"{stored.sequence}\x1f{stored.event.event_id}\x1e".encode())
    return digest.hexdigest()


def newest_truth(ledger: Ledger) -> datetime | None:
    """Return when the newest truth or reversal became known; None when there is none."""
    return ledger.newest_at(ESTABLISHING)


def _has_truth(established: Mapping[str, Established], submission: Submission) -> bool:
    known = established.get(submission.submission_id)
    return known is not None and bool(known.violates)


def established_by(
    ledger: Ledger, cut_off: datetime, policy_ids: Sequence[str]
) -> dict[str, Established]:
    """Return what was found out by `cut_off` under some policies, by submission id."""
    found: defaultdict[str, Established] = defaultdict(Established)
    for stored in ledger.read((EventKind.REVERSAL,), until=cut_off):
        reversal = to_reversal(stored.event)
        policies = policy_ids if reversal.policy is None else {reversal.policy} & set(policy_ids)
        found[reversal.submission_id].undo(reversal, policies)
    for stored in ledger.read((EventKind.GROUND_TRUTH,), until=cut_off):
        truth = to_ground_truth(stored.event)
        if truth.policy in policy_ids and is_mature(truth, cut_off):
            found[truth.submission_id].add(truth)
    return dict(found)


def write_rows(rows: Iterable[SnapshotRow], path: Path) -> int:
    """Write `rows` to a Parquet file as they come; return how many there were."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, pending = 0, list[dict[str, Any]]()
    with pq.ParquetWriter(path, _SCHEMA) as sink:
        for row in rows:
            pending.append(_to_record(row))
            count += 1
            if len(pending) == _BATCH_ROWS:
                sink.write_table(pa.Table.from_pylist(pending, schema=_SCHEMA))
                pending.clear()
        sink.write_table(pa.Table.from_pylist(pending, schema=_SCHEMA))
    return count


def open_rows(path: Path) -> Iterator[SnapshotRow]:
    """Yield the rows that `write_rows` wrote."""
    for batch in pq.ParquetFile(path).iter_batches(_BATCH_ROWS):
        for record in batch.to_pylist():
            yield SnapshotRow(
                submission=Submission.model_validate_json(record["submission"]),
                behaviour_F=_floats(record["behaviour"]),
                served_F=_floats(record["served"]),
                truth=json.loads(record["truth"]),
                propensity=record["propensity"],
                adjudicated=frozenset(record["adjudicated"]),
                is_suspected=record["suspected"],
            )


def _to_record(row: SnapshotRow) -> dict[str, Any]:
    return {
        "submission": row.submission.model_dump_json(),
        "behaviour": None if row.behaviour_F is None else row.behaviour_F.tolist(),
        "served": None if row.served_F is None else row.served_F.tolist(),
        "truth": json.dumps(dict(row.truth), sort_keys=True),
        "propensity": row.propensity,
        "adjudicated": sorted(row.adjudicated),
        "suspected": row.is_suspected,
    }


def _floats(values: list[float] | None) -> Floats | None:
    return None if values is None else np.array(values, np.float32)
