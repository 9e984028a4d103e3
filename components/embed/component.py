"""Embed images and texts with the frozen towers."""

from kfp import dsl

from components.base import component


@component
def embed(
    table: dsl.Input[dsl.Dataset],
    home: str,
    profile: str,
    version: str,
    embeddings: dsl.Output[dsl.Dataset],
    towers: dsl.Output[dsl.Model],
    counts: dsl.Output[dsl.Metrics],
) -> None:
    """Compute what the embedding cache lacks, so that a day costs only its new listings."""
    from components.embed import step
    from components.outputs import log_metrics

    log_metrics(
        counts, step.run(table.path, home, profile, out=embeddings.path, towers=towers.path)
    )
    embeddings.metadata["version"] = version
