"""Freeze the training table."""

from kfp import dsl

from components.base import component


@component
def snapshot(
    rows: dsl.Input[dsl.Dataset],
    accepted: dsl.Input[dsl.Artifact],
    logical_date: str,
    home: str,
    policies: str,
    min_positives: int,
    version: str,
    table: dsl.Output[dsl.Dataset],
    counts: dsl.Output[dsl.Metrics],
) -> None:
    """Give the rows with known truth groups, roles and folds; drop copies and what the golden set keeps out."""
    from components.outputs import log_metrics
    from components.snapshot import step

    done = step.run(rows.path, home, logical_date, policies, min_positives, out=table.path)
    table.metadata.update(digest=done.digest, mode=done.mode, version=version)
    log_metrics(counts, done.counts)
