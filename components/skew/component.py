"""Compare what decisions used with what was known."""

from kfp import dsl

from components.base import component


@component
def skew(
    logical_date: str,
    home: str,
    version: str,
    counts: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.Markdown],
    record: dsl.Output[dsl.Artifact],
) -> None:
    """Report every feature that a decision of the day before used and that was not what was known."""
    from pathlib import Path

    from components.outputs import log_metrics
    from components.skew import step

    done = step.run(home, logical_date, report=record.path)
    log_metrics(counts, done.counts)
    Path(report.path).write_text(done.markdown)
