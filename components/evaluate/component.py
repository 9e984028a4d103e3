"""Judge the bundle on rows that nothing was chosen on."""

from kfp import dsl

from components.base import component


@component
def evaluate(
    table: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    release: dsl.Input[dsl.Model],
    home: str,
    policies: str,
    seed: int,
    version: str,
    metrics: dsl.Output[dsl.Metrics],
    roc: dsl.Output[dsl.ClassificationMetrics],
    confusion: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
    figures: dsl.Output[dsl.Artifact],
) -> None:
    """Report weighted figures per policy, member, tier and slice against the baseline."""
    from components.evaluate import step
    from components.outputs import log_confusion, log_metrics, log_roc

    inputs = step.EvaluateInputs(table.path, model.path, release.path, home)
    done = step.run(inputs, policies, seed, report=report.path, figures=figures.path)
    log_metrics(metrics, done.metrics)
    log_roc(roc, done.roc)
    log_confusion(confusion, done.categories, done.confusion)
    report.metadata["version"] = version
