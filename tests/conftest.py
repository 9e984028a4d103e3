"""Fixtures that every test may ask for."""

import shutil
from pathlib import Path

import pytest

# Before anything imports Feast itself, which costs a process 4 s otherwise.
import featurestore  # noqa: F401

# KFP walks every loaded module for each setting of a step while a pipeline is traced: 20 s once
# torch and transformers are loaded, 3 s before.
import pipelines.training  # noqa: F401
from moderation.bundle import Bundle
from tests.tiny_bundle import TinyRun, tiny_run


@pytest.fixture(scope="session")
def tiny(pytestconfig: pytest.Config) -> TinyRun:
    """A real bundle of the tiny profile with the parts that it was built from; do not change its files."""
    return tiny_run(pytestconfig.cache.mkdir("tiny_bundle"))


@pytest.fixture(scope="session")
def tiny_bundle(tiny: TinyRun) -> Bundle:
    """The bundle of `tiny`: do not change its files, copy them."""
    return tiny.bundle


@pytest.fixture
def bundle_copy(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the tiny bundle's folder that a test may damage."""
    return Path(shutil.copytree(tiny_bundle.folder, tmp_path / "bundle"))
