"""Rows -> report, or a refusal."""

from pathlib import Path

from components.home import Home
from components.ingest.rows import open_rows
from components.policies import read_policies
from components.validate.rows_report import inspect_rows, refuse_unfit
from ledger.store import ContentStore


def run(rows: str, home: str, policies: str, *, report: str) -> dict[str, float]:
    """Write the report on `rows`; return its numbers.

    Raises:
        InvalidSnapshot: if nothing can be trained on these rows; the report is written first.
    """
    counted = inspect_rows(open_rows(Path(rows)), ContentStore(Home(Path(home)).content).has)
    Path(report).parent.mkdir(parents=True, exist_ok=True)
    Path(report).write_text(counted.markdown(), encoding="utf-8")
    refuse_unfit(counted, read_policies(policies).ids)
    return counted.metrics()
