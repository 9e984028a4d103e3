"""Fit every member of the ensemble."""

from kfp import dsl

from components.base import component


@component
def train(
    table: dsl.Input[dsl.Dataset],
    embeddings: dsl.Input[dsl.Dataset],
    config: dsl.Input[dsl.Artifact],
    seed: int,
    version: str,
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Fit heads, n-gram and behaviour models, with out-of-fold signals for the meta-learner."""
    from components.outputs import log_metrics
    from components.train import step

    inputs = step.TrainInputs(table.path, embeddings.path, config.path)
    log_metrics(metrics, step.run(inputs, seed, out=model.path))
    model.metadata["version"] = version
