"""What the rows of one day look like before anything is trained on them: counts, gaps, and reasons to stop."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from moderation.errors import InvalidSnapshot
from moderation.features import FEATURE_NAMES
from moderation.snapshot import SnapshotRow

# A content store that lost more than this share of its images would silently train a text model.
MAX_LOST_SHARE: Final = 0.01


@dataclass
class RowReport:
    """Counts over all rows of an ingest."""

    num_rows: int = 0
    num_images: int = 0
    num_lost_images: int = 0
    first_lost: list[str] = field(default_factory=list)
    gaps: Counter[str] = field(default_factory=Counter)
    positives: Counter[str] = field(default_factory=Counter)
    negatives: Counter[str] = field(default_factory=Counter)
    num_twice: int = 0
    num_backwards: int = 0

    def metrics(self) -> dict[str, float]:
        """Return the counts as flat numbers."""
        flat = {
            "rows": self.num_rows,
            "images": self.num_images,
            "lost_images": self.num_lost_images,
            "repeated_ids": self.num_twice,
            "out_of_time_order": self.num_backwards,
        }
        flat |= {f"missing_{name}": count for name, count in sorted(self.gaps.items())}
        for policy in sorted(self.positives.keys() | self.negatives.keys()):
            flat[f"{policy}_positives"] = self.positives[policy]
            flat[f"{policy}_negatives"] = self.negatives[policy]
        return {name: float(count) for name, count in flat.items()}

    def problems(self, policy_ids: Sequence[str]) -> list[str]:
        """Return what makes these rows unfit to train on; each line says what to do."""
        found = []
        if not self.num_rows:
            found.append(
                "the ledger holds no submission before the cut-off; import or simulate some"
            )
        for policy in policy_ids:
            if self.num_rows and not self.positives[policy]:
                found.append(f"{policy}: no violation is known at the cut-off; review some first")
            if self.num_rows and not self.negatives[policy]:
                found.append(f"{policy}: no cleared listing is known; audit some first")
        if self.num_lost_images > MAX_LOST_SHARE * self.num_images:
            lost = ", ".join(digest[:12] for digest in self.first_lost)
            found.append(
                f"{self.num_lost_images} of {self.num_images} images are not in the content store "
                f"({lost}, ...); restore the store"
            )
        return found

    def markdown(self) -> str:
        """Return the report for a person."""
        lines = ["# Rows of this run", "", "| what | count |", "| --- | ---: |"]
        lines += [f"| {name} | {value:,.0f} |" for name, value in self.metrics().items()]
        return "\n".join(lines) + "\n"


def inspect_rows(rows: Iterable[SnapshotRow], has_blob: Callable[[str], bool]) -> RowReport:
    """Return the counts of `rows`; reads each row once."""
    report, seen, newest = RowReport(), set[str](), None
    for row in rows:
        submission, listing = row.submission, row.submission.listing
        report.num_rows += 1
        report.num_twice += submission.submission_id in seen
        seen.add(submission.submission_id)
        report.num_backwards += newest is not None and submission.submitted_at < newest
        newest = submission.submitted_at
        for policy, violates in row.truth.items():
            (report.positives if violates else report.negatives)[policy] += 1
        for name in ("title", "description", "price", "currency", "category", "region"):
            report.gaps[name] += getattr(listing, name) in (None, "")
        report.gaps["images"] += not submission.image_digests
        report.gaps["truth"] += not row.truth
        if row.behaviour_F is None:
            report.gaps["behaviour"] += 1
        else:
            for index in np.flatnonzero(np.isnan(row.behaviour_F)):
                report.gaps[f"behaviour.{FEATURE_NAMES[index]}"] += 1
        for digest in submission.image_digests:
            report.num_images += 1
            if not has_blob(digest):
                report.num_lost_images += 1
                report.first_lost = [*report.first_lost, digest][:3]
    return report


def refuse_unfit(report: RowReport, policy_ids: Sequence[str]) -> None:
    """Do nothing for rows that can be trained on.

    Raises:
        InvalidSnapshot: listing every reason to stop.
    """
    problems = report.problems(policy_ids)
    if problems:
        raise InvalidSnapshot("these rows cannot be trained on: " + "; ".join(problems))
