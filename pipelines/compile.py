"""The pipeline as the intermediate representation that a cluster runs."""

from pathlib import Path

from kfp import compiler

from pipelines.training import training


def compile_training(path: Path) -> Path:
    """Write the training pipeline's YAML to `path`; the same code gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(training, str(path))
    return path
