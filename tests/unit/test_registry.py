"""The registry: lineage beside every bundle, two names, and bytes that are checked by digest."""

import shutil
import socket
from pathlib import Path

import pytest

from components.registry import ModelVersion, Registry
from moderation.bundle import Bundle, build
from moderation.errors import BundleRejected, PermanentError, TemporaryError
from tests.tiny_bundle import TinyRun

LINEAGE = {"git_commit": "abc123", "study": "study-7"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with an empty registry: its tables take seconds to create."""
    folder = tmp_path_factory.mktemp("home")
    assert _registry(folder).champion() is None
    return folder


@pytest.fixture
def registry(home: Path, tmp_path: Path) -> Registry:
    shutil.copytree(home, tmp_path / "home")
    return _registry(tmp_path / "home")


def _registry(folder: Path) -> Registry:
    url = f"sqlite:///{folder / 'mlflow.sqlite'}"
    return Registry(url, bundles=folder / "bundles", artifacts=folder / "mlruns")


def _other(tiny: TinyRun, folder: Path, seed: int = 12) -> Bundle:
    inputs = tiny.description.inputs.model_copy(update={"seed": seed})
    description = tiny.description.model_copy(update={"inputs": inputs})
    return build(folder, tiny.parts, description)


def _register(registry: Registry, bundle: Bundle, *reports: Path) -> ModelVersion:
    return registry.register(
        bundle, metrics={"weapons/ap": 0.5, "gone": None}, lineage=LINEAGE, reports=reports
    )


def test_first_version_is_champion_and_next_candidate(
    registry: Registry, tiny: TinyRun, tmp_path: Path
) -> None:
    first = _register(registry, tiny.bundle)
    second = _register(registry, _other(tiny, tmp_path / "b"))
    assert (first.version, first.aliases) == (1, ("champion",))
    assert (second.version, second.aliases) == (2, ("candidate",))
    assert registry.resolve("champion").digest == tiny.bundle.digest
    assert registry.resolve("candidate").digest == second.digest


def test_same_bundle_keeps_its_version(registry: Registry, tiny_bundle: Bundle) -> None:
    assert _register(registry, tiny_bundle) == _register(registry, tiny_bundle)


def test_alias_moves_when_set(registry: Registry, tiny: TinyRun, tmp_path: Path) -> None:
    _register(registry, tiny.bundle)
    second = _register(registry, _other(tiny, tmp_path / "b"))
    registry.set_alias("champion", second.version)
    champion = registry.champion()
    assert champion is not None
    assert champion.digest == second.digest
    assert champion.aliases == ("candidate", "champion")
    with pytest.raises(PermanentError, match="refused"):
        registry.set_alias("champion", 99)


def test_lineage_metrics_and_report_are_kept(
    registry: Registry, tiny: TinyRun, tmp_path: Path
) -> None:
    report = tmp_path / "report.html"
    report.write_text("<p>fine</p>")
    _register(registry, tiny.bundle)
    done = _register(registry, _other(tiny, tmp_path / "b"), report)
    with registry._client() as client:
        run = client.get_run(done.run_id)
        names = [entry.path for entry in client.list_artifacts(done.run_id, "bundle")]
    assert run.data.metrics == {"weapons/ap": 0.5}
    assert run.data.params["git_commit"] == "abc123"
    assert run.data.params["parent_bundle"] == tiny.bundle.digest
    assert run.data.params["version.ngram"] == tiny.bundle.versions["ngram"]
    assert run.info.status == "FINISHED"
    assert sorted(names) == ["bundle/manifest.json", "bundle/report.html"]


def test_register_is_refused_when_lineage_lies(registry: Registry, tiny_bundle: Bundle) -> None:
    with pytest.raises(PermanentError, match="snapshot is 1111"):
        registry.register(tiny_bundle, metrics={}, lineage={"snapshot": "1" * 64})


def test_resolve_is_refused_when_there_is_no_version(registry: Registry) -> None:
    with pytest.raises(PermanentError, match="no version is champion"):
        registry.resolve("champion")


def test_resolve_is_refused_when_bundle_changed(registry: Registry, tiny_bundle: Bundle) -> None:
    done = _register(registry, tiny_bundle)
    (done.folder / "ensemble.json").write_text("{}")
    with pytest.raises(BundleRejected, match=r"ensemble\.json: was altered"):
        registry.resolve("champion")
    shutil.rmtree(done.folder)
    with pytest.raises(PermanentError, match="is gone"):
        registry.resolve("champion")


def test_registry_speaks_to_no_network(
    registry: Registry, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*address: object) -> None:
        raise AssertionError(f"connected to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert _register(registry, tiny_bundle).version == 1


def test_registry_is_quiet(
    registry: Registry, tiny_bundle: Bundle, capfd: pytest.CaptureFixture[str]
) -> None:
    _register(registry, tiny_bundle)
    assert capfd.readouterr() == ("", "")


def test_unreachable_server_is_worth_a_retry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    registry = Registry("http://127.0.0.1:1", bundles=tmp_path, artifacts=tmp_path)
    with pytest.raises(TemporaryError, match=r"http://127\.0\.0\.1:1 failed"):
        registry.champion()
