"""Embed images and texts with the profile's towers."""

from kfp import dsl

from components.base import component


@component
def embed(
    table: dsl.Input[dsl.Dataset],
    home: str,
    profile: str,
    seed: int,
    version: str,
    embeddings: dsl.Output[dsl.Dataset],
    towers: dsl.Output[dsl.Model],
    counts: dsl.Output[dsl.Metrics],
) -> None:
    """Compute what the embedding cache lacks, so that a day costs only its new listings."""
    from components.embed import step
    from components.outputs import log_metrics

    found = step.run(table.path, home, profile, seed, out=embeddings.path, towers=towers.path)
    log_metrics(counts, found)
    embeddings.metadata["version"] = version
