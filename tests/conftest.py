"""Fixtures that every test may ask for."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything imports Feast itself, which costs a process 4 s otherwise.
import featurestore  # noqa: F401

# KFP walks every loaded module for each setting of a step while a pipeline is traced: 20 s once
# torch and transformers are loaded, 3 s before.
import pipelines.training  # noqa: F401
from benchmarks.redis_process import redis_server, running_redis
from moderation.bundle import Bundle
from tests.tiny_bundle import TinyRun, tiny_run

OwnRedis = tuple[str, "subprocess.Popen[bytes]"]
"""Its URL and its process."""


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    """Give a real server; it is a package of the system, which a bare machine may lack and CI installs."""
    if not redis_server():
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    with running_redis(tmp_path) as found:
        yield found


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
