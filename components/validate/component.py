"""Refuse rows that cannot be trained on."""

from kfp import dsl

from components.base import component


@component
def validate(
    rows: dsl.Input[dsl.Dataset],
    home: str,
    policies: str,
    version: str,
    accepted: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.Markdown],
    counts: dsl.Output[dsl.Metrics],
) -> None:
    """Count rows, gaps, truths and lost images; stop when a policy has no truth or images are lost."""
    from components.outputs import log_metrics, log_record
    from components.validate import step

    log_metrics(counts, step.run(rows.path, home, policies, report=report.path))
    log_record(accepted, {"rows": rows.uri, "version": version})
