"""The compiled pipeline is a contract with the cluster: a change to it is seen in review, and a server can read it."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from pipelines.compile import compile_training
from pipelines.resources import CLUSTER_HOME, RESOURCES
from pipelines.steps import STEP_NAMES

GOLDEN = Path(__file__).parent / "golden" / "training.yaml"
UPDATE = "tidegate pipelines compile --out tests/contract/golden"

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_training(tmp_path_factory.mktemp("pipelines") / "training.yaml")


@pytest.fixture(scope="module")
def documents(compiled: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(compiled.read_text(encoding="utf-8")))


def test_training_compiles_to_the_golden_file(compiled: Path) -> None:
    assert compiled.read_text() == GOLDEN.read_text(), f"if the change is meant: {UPDATE}"


def test_training_is_a_valid_pipeline_spec(documents: list[dict[str, Any]]) -> None:
    spec = json_format.ParseDict(documents[0], pipeline_spec_pb2.PipelineSpec())
    assert spec.pipeline_info.name == "training"
    assert set(spec.root.dag.tasks) == set(STEP_NAMES)


def test_training_is_a_valid_kubernetes_config(documents: list[dict[str, Any]]) -> None:
    executors = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert len(executors) == len(STEP_NAMES)
    for name, content in executors.items():
        config = json_format.ParseDict(
            content, kubernetes_executor_config_pb2.KubernetesExecutorConfig()
        )
        limits = RESOURCES[name.removeprefix("exec-")]
        assert config.active_deadline_seconds == limits.timeout_s
        assert config.pvc_mount[0].mount_path == CLUSTER_HOME


def test_training_steps_are_limited_retried_and_cached(documents: list[dict[str, Any]]) -> None:
    spec = documents[0]
    for name, task in spec["root"]["dag"]["tasks"].items():
        # What a bundle is made of depends on its inputs alone; what it is judged by goes on.
        is_cached = task["cachingOptions"].get("enableCache", False)
        assert is_cached is (name not in {"skew", "resolve", "prove", "judge", "register"})
        assert task["retryPolicy"]["maxRetryCount"] == RESOURCES[name].num_retries
    for executor in spec["deploymentSpec"]["executors"].values():
        limits = executor["container"]["resources"]
        assert limits["resourceMemoryLimit"] == limits["resourceMemoryRequest"]
        assert limits["resourceCpuLimit"] == limits["resourceCpuRequest"]


def test_training_steps_are_keyed_by_data_code_and_config(documents: list[dict[str, Any]]) -> None:
    tasks = documents[0]["root"]["dag"]["tasks"]
    for task in tasks.values():
        version = task["inputs"]["parameters"]["version"]["runtimeValue"]["constant"]
        for digest in ("data_version", "code_digest", "config_digest"):
            assert f"pipelinechannel--{digest}" in version


def test_training_judges_before_it_registers(documents: list[dict[str, Any]]) -> None:
    tasks = documents[0]["root"]["dag"]["tasks"]
    assert "evaluate" in tasks["resolve"]["dependentTasks"]
    assert {"resolve"} <= set(tasks["prove"]["dependentTasks"])
    assert {"prove"} <= set(tasks["judge"]["dependentTasks"])
    assert {"judge"} <= set(tasks["register"]["dependentTasks"])


def test_training_installs_nothing_at_run_time(compiled: Path) -> None:
    assert "pip install" not in compiled.read_text()


def test_training_asks_for_a_gpu_only_to_embed(documents: list[dict[str, Any]]) -> None:
    executors = documents[0]["deploymentSpec"]["executors"]
    on_gpu = {n for n, e in executors.items() if "accelerator" in e["container"]["resources"]}
    assert on_gpu == {"exec-embed"}
