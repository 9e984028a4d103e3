"""Read the ledger up to the cut-off into rows."""

from kfp import dsl

from components.base import component


@component
def ingest(
    logical_date: str,
    home: str,
    policies: str,
    version: str,
    rows: dsl.Output[dsl.Dataset],
    counts: dsl.Output[dsl.Metrics],
) -> None:
    """Read every submission and every truth that had arrived by the start of the logical date."""
    from components.ingest import step
    from components.outputs import log_metrics

    log_metrics(counts, step.run(home, logical_date, policies, out=rows.path))
    rows.metadata["version"] = version
