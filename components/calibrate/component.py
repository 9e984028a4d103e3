"""Fit the meta-learner and calibration, and solve thresholds."""

from kfp import dsl

from components.base import component


@component
def calibrate(
    table: dsl.Input[dsl.Dataset],
    embeddings: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    policies: str,
    contract: str,
    seed: int,
    version: str,
    calibration: dsl.Output[dsl.Model],
    tiers: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Open each tier only where a lower bound shows its precision."""
    from components.calibrate import step
    from components.outputs import log_metrics

    inputs = step.CalibrateInputs(table.path, embeddings.path, model.path)
    done = step.run(inputs, policies, contract, seed, out=calibration.path, tiers=tiers.path)
    log_metrics(metrics, done)
    calibration.metadata["version"] = version
