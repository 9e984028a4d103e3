"""Decisions of one day -> what they used, compared with what the history says was known."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from components.behaviour import known_behaviour, place_of
from components.home import Home
from components.policies import cut_off_of
from featurestore.skew import FeatureSkew, Lag, Used, as_markdown, as_record, compare, lagging
from ledger.events import EventKind
from ledger.ledger import Ledger, SqliteLedger

_DAY: Final = timedelta(days=1)


@dataclass(frozen=True)
class Compared:
    """What came of one day."""

    rows: list[FeatureSkew]
    num_decisions: int
    lag: Lag
    markdown: str

    @property
    def counts(self) -> dict[str, float]:
        """Numbers for the pipeline's page."""
        named = {f"{one.feature}_differing": float(one.differing) for one in self.rows}
        known = {"lag_median_s": self.lag.median_s, "lag_largest_s": self.lag.largest_s}
        named |= {name: value for name, value in known.items() if value is not None}
        return {
            "decisions": float(self.num_decisions),
            "differing": float(sum(one.differing for one in self.rows)),
            "lagging": float(sum(one.lagging for one in self.rows)),
            "unread": float(sum(one.unread for one in self.rows)),
        } | named


def run(home: str, logical_date: str, *, report: str | None = None) -> Compared:
    """Compare the decisions of the day before the start of the logical date, feature by feature.

    Args:
        home: folder.
        logical_date: the day after the one that is looked at.
        report: file of the record as JSON.

    Raises:
        FeatureStoreUnavailable: if the feature store cannot be brought up to date now.
        LedgerUnavailable: if the ledger cannot be read.
    """
    place, end = Home(Path(home)), cut_off_of(logical_date)
    ledger = SqliteLedger(place.ledger)
    used = list(_used(ledger, end - _DAY, end))
    submissions = [one.submission for one in used]
    known_NF = known_behaviour(place, ledger)(submissions)
    rows = compare(used, known_NF, lagging(place_of(place).folder, used, known_NF))
    lag = Lag.of(used)
    if report:
        record = as_record(rows, len(used), lag)
        Path(report).write_text(json.dumps(record, indent=1), encoding="utf-8")
    return Compared(rows, len(used), lag, as_markdown(rows, len(used), lag, logical_date))


def _used(ledger: Ledger, begin: datetime, end: datetime) -> Iterator[Used]:
    decisions = ledger.read((EventKind.DECISION,), until=end, since=begin, in_time_order=True)
    for stored in decisions:
        if stored.event.payload.get("duplicate_of"):
            continue  # nothing was read: the features are those of the earlier upload
        submission = ledger.get_submission(stored.event.submission_id)
        if submission is not None:
            yield Used.of(submission, stored.event.payload)
