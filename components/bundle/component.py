"""Put one trained model and all it needs into one verified folder."""

from kfp import dsl

from components.base import component


@component
def bundle(
    table: dsl.Input[dsl.Dataset],
    towers: dsl.Input[dsl.Model],
    config: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Model],
    calibration: dsl.Input[dsl.Model],
    profile: str,
    seed: int,
    code_digest: str,
    config_digest: str,
    version: str,
    release: dsl.Output[dsl.Model],
) -> str:
    """Write the manifest and name the bundle by its digest."""
    from components.bundle import step

    parts = step.BundleParts(table.path, towers.path, model.path, calibration.path)
    inputs = {"code": code_digest, "config": config_digest, "seed": seed}
    inputs["prior_study"] = config.metadata.get("prior_digest") or None
    release.metadata["digest"] = step.run(parts, inputs, profile, out=release.path)
    release.metadata["version"] = version
    return str(release.metadata["digest"])
