"""Listings from a foreign table become events of the ledger; what is missing or bad is told row by row.

Importing the same table again changes nothing: ids come from the rows, and the ledger keeps an event once.
"""

import fcntl
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final, TextIO

from ledger.events import Event, from_ground_truth, from_submission
from ledger.ledger import Ledger, LedgerConflict
from ledger.mapping import (
    EXAMPLES,
    FILE_NAME,
    FoundMapping,
    MappingError,
    check_columns,
    find_mapping,
    load_mapping,
)
from ledger.rows import ImportedRow, read_row
from ledger.store import ContentStore
from ledger.tables import Table, open_table
from moderation.clock import Clock
from moderation.errors import InvalidListing, PermanentError
from moderation.policy import PolicyFile

# Rows of one transaction: few enough that their images fit in memory, many enough that commits cost little.
_BATCH_ROWS: Final = 64


class NothingImported(PermanentError):
    """No row of the table could be imported; the message counts the reasons, the report lists the rows."""


@dataclass(frozen=True)
class Destination:
    """Where an import goes."""

    ledger: Ledger
    store: ContentStore
    report_file: Path
    """JSON lines: one for each row that misses something or is bad; replaced by every import."""


@dataclass
class ImportReport:
    """What an import did, in counts; the rows behind them are in `report_file`."""

    origin: str
    """Where the mapping came from."""

    report_file: Path
    rows: int = 0
    imported: int = 0
    """Rows that are in the ledger now, those of an earlier import of the same table included."""

    already_there: int = 0
    images: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    """Skipped rows by the field that is wrong."""

    missing: Counter[str] = field(default_factory=Counter)
    """Imported rows by mapped field that holds nothing."""

    truth: dict[str, Counter[str]] = field(default_factory=dict)
    """Policy -> imported rows that are `positive`, `negative` or `unknown`."""

    @property
    def skipped(self) -> int:
        """Rows that were not imported."""
        return self.rows - self.imported

    def summary(self) -> str:
        """Return the report as a few lines for people."""
        lines = [
            f"mapping: {self.origin}",
            f"{self.imported:,} of {self.rows:,} rows imported ({self.already_there:,} were there already), "
            f"{self.images:,} images",
        ]
        lines += [
            f"{policy}: {seen['positive']:,} violate, {seen['negative']:,} do not, {seen['unknown']:,} unknown"
            for policy, seen in self.truth.items()
        ]
        lines += [f"skipped {count:,}: bad {name}" for name, count in self.bad.most_common()]
        lines += [f"missing in {count:,}: {name}" for name, count in self.missing.most_common()]
        return "\n".join([*lines, f"row by row: {self.report_file}"])


@dataclass(frozen=True)
class Source:
    """A table with the mapping that it will be read by."""

    table: Table
    found: FoundMapping


def open_source(
    path: Path,
    policy_ids: Sequence[str],
    *,
    mapping: Path | None = None,
    examples: Path = EXAMPLES,
) -> Source:
    """Return the table at `path` with its mapping.

    The mapping is the given one, else `mapping.yaml` beside the table, else a shipped one whose columns
    are all there, else a guess from the column names; `found.origin` says which.

    Args:
        path: a Parquet or CSV file, or a folder that holds one.
        policy_ids: policies that a guess looks for the truth of.
        mapping: a mapping file that the caller names.
        examples: folder of shipped examples.

    Raises:
        TableError: if there is no readable table.
        MappingError: if the mapping does not load or fit, or none can be found.
    """
    beside = (path if path.is_dir() else path.parent) / FILE_NAME
    chosen = mapping or (beside if beside.is_file() else None)
    found = load_mapping(chosen) if chosen else None
    table = open_table(path, found.mapping.table if found else None)
    found = found or find_mapping(table.columns, policy_ids, examples=examples)
    check_columns(found, table.columns)
    return Source(table, found)


def import_listings(
    source: Source,
    policies: PolicyFile,
    destination: Destination,
    clock: Clock,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> ImportReport:
    """Import every good row of a table and return what was done; bad rows are skipped and told.

    Rows go to the ledger in batches, each whole or not at all, images before the events that name them;
    memory holds one batch. A table without event times lies at one instant, and its rows carry the
    attribute `time` = `unknown`.

    Args:
        source: the table and its mapping.
        policies: every policy that the mapping has truth for must be there.
        destination: ledger, content store and report file.
        clock: gives the time of recording.
        on_progress: called with the number of rows read so far.

    Raises:
        MappingError: if the mapping speaks of a policy that `policies` lacks.
        TableError: if the table breaks off; batches before it are in the ledger, and importing again goes on.
        NothingImported: if not one row is good.
    """
    mapping = source.found.mapping
    strangers = sorted(set(mapping.truth) - set(policies.ids))
    if strangers:
        raise MappingError(
            f"{source.found.origin}: truth about {', '.join(strangers)}, which is no policy of this file; "
            f"it has {', '.join(policies.ids)}"
        )
    report = ImportReport(source.found.origin, destination.report_file)
    report.truth = {policy: Counter() for policy in mapping.truth}
    with _replacing(destination.report_file) as lines:
        importer = _Importer(source, destination, clock, report, lines)
        rows = source.table.rows(mapping.columns())
        while batch := list(islice(rows, _BATCH_ROWS)):
            importer.take(batch)
            if on_progress is not None:
                on_progress(report.rows)
    if not report.imported:
        raise NothingImported(
            f"no row of {source.table.path.name} was imported\n{report.summary()}"
        )
    return report


@dataclass
class _Importer:
    """The state of one import between batches."""

    source: Source
    destination: Destination
    clock: Clock
    report: ImportReport
    lines: TextIO

    def take(self, batch: list[tuple[int, dict[str, Any]]]) -> None:
        """Import the good rows of one batch."""
        self.report.rows += len(batch)
        good: list[tuple[int, ImportedRow]] = []
        for number, cells in batch:
            try:
                row = read_row(
                    cells, number, self.source.found.mapping, self.source.table.path.parent
                )
            except InvalidListing as error:
                self._refuse(number, error.field, error.reason)
            else:
                if self.destination.ledger.is_erased(_submission_event_id(row)):
                    self._refuse(
                        number,
                        "seller_id",
                        "was erased, and this row of it; it is not brought back",
                    )
                else:
                    good.append((number, row))
        self._keep_images(good)
        for number, row, is_new in self._append(good):
            self._accept(number, row, is_new=is_new)

    def _keep_images(self, rows: list[tuple[int, ImportedRow]]) -> None:
        store = self.destination.store
        sellers = {row.submission.listing.seller_id for _, row in rows if row.images}
        store.make_keys([seller_id for seller_id in sellers if seller_id is not None])
        for _, row in rows:
            for image in row.images:
                store.put(image, row.submission.listing.seller_id)

    def _append(
        self, rows: list[tuple[int, ImportedRow]]
    ) -> Iterator[tuple[int, ImportedRow, bool]]:
        """Yield the rows that are in the ledger now, and whether each is new there."""
        ledger = self.destination.ledger
        known = [ledger.get_event(_submission_event_id(row)) is not None for _, row in rows]
        try:
            ledger.append([event for _, row in rows for event in self._events(row)])
        except LedgerConflict:
            # One row contradicts the ledger or its own neighbour: find out which.
            for number, row in rows:
                is_new = ledger.get_event(_submission_event_id(row)) is None
                try:
                    ledger.append(self._events(row))
                except LedgerConflict:
                    reason = "was imported before with another content; a table holds a listing once per time"
                    self._refuse(number, "listing_id", reason)
                else:
                    yield number, row, is_new
            return
        for (number, row), was_known in zip(rows, known, strict=True):
            yield number, row, not was_known

    def _events(self, row: ImportedRow) -> list[Event]:
        now, seller_id = self.clock.now(), row.submission.listing.seller_id
        truths = [from_ground_truth(t, recorded_at=now, seller_id=seller_id) for t in row.truths]
        # A table stands for what the marketplace would have recorded then.
        return [from_submission(row.submission, recorded_at=row.submission.submitted_at), *truths]

    def _accept(self, number: int, row: ImportedRow, *, is_new: bool) -> None:
        report = self.report
        report.imported += 1
        report.already_there += not is_new
        report.images += len(row.images)
        report.missing.update(row.missing)
        found = {truth.policy: truth.violates for truth in row.truths}
        for policy, seen in report.truth.items():
            seen[
                "unknown" if policy not in found else "positive" if found[policy] else "negative"
            ] += 1
        if row.missing:
            listing_id = row.submission.listing.listing_id
            unclear = {"unclear": row.unclear} if row.unclear else {}
            line = {"row": number, "listing_id": listing_id, "missing": row.missing}
            self._tell(line | unclear)

    def _refuse(self, number: int, field_name: str, reason: str) -> None:
        self.report.bad[field_name] += 1
        self._tell({"row": number, "bad": field_name, "reason": reason})

    def _tell(self, line: dict[str, Any]) -> None:
        self.lines.write(json.dumps(line) + "\n")


def _submission_event_id(row: ImportedRow) -> str:
    return f"submission:{row.submission.submission_id}"


def partial_report(path: Path) -> Path:
    """Return where the lines of a report are kept while the import runs."""
    return path.with_name(f"{path.name}.partial")


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """Open a file for writing that takes the place of `path` only when all is written; it is locked until then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_report(path)
    try:
        with partial.open("w", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            file.flush()
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
