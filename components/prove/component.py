"""Take the evidence that the gates judge."""

from kfp import dsl

from components.base import component


@component
def prove(
    table: dsl.Input[dsl.Dataset],
    release: dsl.Input[dsl.Model],
    champion: str,
    home: str,
    contract: str,
    policies: str,
    profile: str,
    seed: int,
    version: str,
    evidence: dsl.Output[dsl.Artifact],
    counts: dsl.Output[dsl.Metrics],
) -> None:
    """Score candidate and champion side by side on every frozen set, under attack, and for cost."""
    from components.outputs import log_metrics
    from components.prove import step

    inputs = step.ProveInputs(release.path, champion, table.path, home, profile)
    log_metrics(counts, step.run(inputs, contract, policies, seed, out=evidence.path))
    evidence.metadata["version"] = version
