"""The registry: lineage beside every bundle, two names, and bytes that are checked by digest."""

import shutil
import socket
from pathlib import Path

import pytest

from components.home import Home
from components.registry import ModelVersion, Registry
from moderation.bundle import ATTESTATIONS, Bundle, build
from moderation.errors import BundleRejected, GateRejected, PermanentError, TemporaryError
from tests.judged import BAD, contract, judged
from tests.tiny_bundle import TinyRun

LINEAGE = {"git_commit": "abc123", "study": "study-7"}
CONTRACT = contract().digest


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with an empty registry: its tables take seconds to create."""
    folder = tmp_path_factory.mktemp("home")
    with _registry(Home(folder))._client() as client:
        assert client.search_registered_models() == []
    return folder


@pytest.fixture
def home(empty: Path, tmp_path: Path) -> Home:
    return Home(Path(shutil.copytree(empty, tmp_path / "home")))


@pytest.fixture
def registry(home: Home) -> Registry:
    return _registry(home)


def _registry(home: Home, accepts: str = "standard") -> Registry:
    return Registry(
        home.tracking_url, bundles=home.bundles, artifacts=home.artifacts, accepts=accepts
    )


def _other(tiny: TinyRun, folder: Path, seed: int = 12) -> Bundle:
    inputs = tiny.description.inputs.model_copy(update={"seed": seed})
    description = tiny.description.model_copy(update={"inputs": inputs})
    return build(folder, tiny.parts, description)


def _register(
    registry: Registry, home: Home, bundle: Bundle, *reports: Path, **how: object
) -> ModelVersion:
    champion = registry.opponent_of(bundle.digest)
    how.setdefault("champion", champion.digest if champion else None)
    outcome = judged(bundle, home, **how)  # type: ignore[arg-type]  # as the caller gave them
    return registry.register(
        bundle,
        outcome,
        metrics={"weapons/ap": 0.5, "gone": None},
        lineage=LINEAGE,
        reports=reports,
    )


def test_first_version_is_champion_and_next_candidate(
    registry: Registry, home: Home, tiny: TinyRun, tmp_path: Path
) -> None:
    first = _register(registry, home, tiny.bundle)
    second = _register(registry, home, _other(tiny, tmp_path / "b"))
    assert (first.version, first.aliases) == (1, ("champion",))
    assert (second.version, second.aliases) == (2, ("candidate",))
    assert registry.resolve("champion").digest == tiny.bundle.digest
    assert registry.resolve("candidate").digest == second.digest
    assert second.tags["compared_with"] == first.digest


def test_blocked_version_is_kept_without_a_name(
    registry: Registry, home: Home, tiny: TinyRun, tmp_path: Path
) -> None:
    blocked = _register(registry, home, tiny.bundle, separation=BAD)
    assert (blocked.version, blocked.aliases, blocked.state) == (1, (), "blocked")
    assert blocked.tags["gates_reasons"].startswith("ranks: fail")
    with pytest.raises(PermanentError, match="version 1 was blocked by the gates"):
        registry.resolve("champion")
    first = _register(registry, home, _other(tiny, tmp_path / "b"))
    assert (first.aliases, first.state) == (("champion",), "proposed")
    again = _register(registry, home, _other(tiny, tmp_path / "c", 13), separation=BAD)
    assert again.aliases == ()


def test_candidate_loses_its_name_when_blocked_later(
    registry: Registry, home: Home, tiny: TinyRun, tmp_path: Path
) -> None:
    first = _register(registry, home, tiny.bundle)
    bundle = _other(tiny, tmp_path / "b")
    assert _register(registry, home, bundle).aliases == ("candidate",)
    blocked = judged(bundle, home, separation=BAD, champion=first.digest)
    settled = registry.settle(blocked)
    assert settled is not None
    assert (settled.aliases, settled.state) == ((), "blocked")
    assert registry.settle(judged(_other(tiny, tmp_path / "c", 13), home)) is None


def test_same_bundle_keeps_its_version(registry: Registry, home: Home, tiny_bundle: Bundle) -> None:
    first = _register(registry, home, tiny_bundle)
    again = _register(registry, home, tiny_bundle)
    assert (first.version, first.aliases) == (again.version, again.aliases)


def test_champion_is_never_compared_with_itself(
    registry: Registry, home: Home, tiny: TinyRun, tmp_path: Path
) -> None:
    assert registry.opponent_of(tiny.bundle.digest) is None
    first = _register(registry, home, tiny.bundle)
    assert registry.opponent_of(first.digest) is None
    second = _register(registry, home, _other(tiny, tmp_path / "b"))
    registry.set_alias("champion", second.version, contract=CONTRACT)
    opponent = registry.opponent_of(second.digest)
    assert opponent is not None
    assert opponent.digest == first.digest


def test_candidate_becomes_champion_and_back(
    registry: Registry, home: Home, tiny: TinyRun, tmp_path: Path
) -> None:
    first = _register(registry, home, tiny.bundle)
    second = _register(registry, home, _other(tiny, tmp_path / "b"))
    promoted = registry.set_alias("champion", second.version, contract=CONTRACT)
    assert promoted.aliases == ("champion",), "and it is no candidate any more"
    back = registry.set_alias("champion", first.version, contract=CONTRACT)
    assert back.aliases == ("champion",), "it was champion before, so it may be again"
    with pytest.raises(PermanentError, match="refused"):
        registry.set_alias("champion", 99, contract=CONTRACT)


def test_names_are_refused_when_judged_against_another(
    registry: Registry, home: Home, tiny: TinyRun, tmp_path: Path
) -> None:
    _register(registry, home, tiny.bundle)
    with pytest.raises(GateRejected, match="compared with no champion, but the champion is"):
        _register(registry, home, _other(tiny, tmp_path / "b"), champion=None)
    with pytest.raises(GateRejected, match="compared with bundle ffff"):
        _register(registry, home, _other(tiny, tmp_path / "b"), champion="f" * 64)


def test_a_champion_is_not_released_anew_without_the_comparison_that_it_stands_on(
    registry: Registry, home: Home, tiny: TinyRun, tmp_path: Path
) -> None:
    first = _register(registry, home, tiny.bundle)
    other = _other(tiny, tmp_path / "b")
    second = _register(registry, home, other)
    registry.set_alias("champion", second.version, contract=CONTRACT)
    judged(other, home, champion=None)
    with pytest.raises(GateRejected, match="with no champion, but as the champion it stands on"):
        registry.check_release(other, CONTRACT)
    blocked = judged(other, home, separation=BAD, champion=first.digest)
    registry.settle(blocked)
    judged(other, home, champion=None)
    with pytest.raises(GateRejected, match="by ranks, better; .*`--champion none` does not undo"):
        registry.check_release(other, CONTRACT)
    judged(other, home, champion=first.digest)
    assert registry.check_release(other, CONTRACT).champion == first.digest


def test_a_former_champion_does_not_come_back_by_absolute_gates_alone(
    registry: Registry, home: Home, tiny: TinyRun, tmp_path: Path
) -> None:
    first = _register(registry, home, tiny.bundle)
    second = _register(registry, home, _other(tiny, tmp_path / "b"))
    registry.set_alias("champion", second.version, contract=CONTRACT)
    assert registry.check_release(tiny.bundle, CONTRACT).champion is None, "what it was released on"
    judged(tiny.bundle, home, champion=None)
    with pytest.raises(GateRejected, match="compared with no champion, but the champion is"):
        registry.set_alias("champion", first.version, contract=CONTRACT)
    judged(tiny.bundle, home, champion=second.digest)
    back = registry.set_alias("champion", first.version, contract=CONTRACT)
    assert back.aliases == ("champion",)


def test_a_first_champion_is_judged_again_without_another(
    registry: Registry, home: Home, tiny: TinyRun
) -> None:
    _register(registry, home, tiny.bundle)
    judged(tiny.bundle, home, champion=None)
    assert registry.check_release(tiny.bundle, CONTRACT).champion is None


def test_names_are_refused_without_a_passing_attestation(
    registry: Registry, home: Home, tiny: TinyRun, tmp_path: Path
) -> None:
    done = _register(registry, home, tiny.bundle)
    folder = done.folder / ATTESTATIONS
    with pytest.raises(GateRejected, match="under the contract .* run `tidegate gates run"):
        registry.set_alias("candidate", done.version, contract="0" * 64)
    judged(tiny.bundle, home, separation=BAD)
    with pytest.raises(GateRejected, match="by ranks"):
        registry.set_alias("candidate", done.version, contract=CONTRACT)
    last = sorted(folder.iterdir())[-1]
    last.write_text(last.read_text().replace('"fail"', '"pass"'))
    with pytest.raises(BundleRejected, match="was altered"):
        registry.set_alias("candidate", done.version, contract=CONTRACT)
    shutil.rmtree(folder)
    with pytest.raises(GateRejected, match="never judged by the gates; run `tidegate gates run"):
        registry.set_alias("candidate", done.version, contract=CONTRACT)


def test_register_is_refused_when_the_record_is_gone(
    registry: Registry, home: Home, tiny: TinyRun
) -> None:
    outcome = judged(tiny.bundle, home)
    shutil.rmtree(home.bundles / tiny.bundle.digest / ATTESTATIONS)
    with pytest.raises(GateRejected, match="never judged"):
        registry.register(tiny.bundle, outcome, metrics={}, lineage={})
    assert registry.champion() is None


def test_release_check_reads_the_kept_copy(home: Home, tiny: TinyRun, tmp_path: Path) -> None:
    registry = _registry(Home(tmp_path / "none"))
    with pytest.raises(GateRejected, match="never judged"):
        registry.check_release(tiny.bundle, CONTRACT)
    judged(tiny.bundle, home)
    kept = _registry(home)
    assert kept.check_release(tiny.bundle, CONTRACT).is_passing, "the copy below home was judged"
    carried = Bundle.open(home.bundles / tiny.bundle.digest)
    assert registry.check_release(carried, CONTRACT).is_passing, "it brings its own record"


def test_pass_under_a_weaker_profile_counts_only_where_accepted(
    registry: Registry, home: Home, tiny: TinyRun
) -> None:
    lenient = _registry(home, accepts="lenient")
    outcome = judged(tiny.bundle, home, profile="lenient")
    assert outcome.state == "proposed"
    with pytest.raises(GateRejected, match=r"profile 'lenient', .* --profile standard, or accept"):
        registry.register(tiny.bundle, outcome, metrics={}, lineage={})
    assert registry.champion() is None
    assert lenient.check_release(tiny.bundle, CONTRACT).profile == "lenient"
    judged(tiny.bundle, home)
    assert registry.check_release(tiny.bundle, CONTRACT).profile == "standard"
    assert lenient.check_release(tiny.bundle, CONTRACT).profile == "standard"


def test_weaker_pass_hides_no_block(registry: Registry, home: Home, tiny: TinyRun) -> None:
    judged(tiny.bundle, home, separation=BAD)
    judged(tiny.bundle, home, profile="lenient")
    with pytest.raises(GateRejected, match="was blocked on .* by ranks"):
        registry.check_release(tiny.bundle, CONTRACT)
    assert _registry(home, "lenient").check_release(tiny.bundle, CONTRACT).is_passing
    judged(tiny.bundle, home)
    assert registry.check_release(tiny.bundle, CONTRACT).is_passing
    judged(tiny.bundle, home, separation=BAD, profile="lenient")
    with pytest.raises(GateRejected, match="was blocked on .* by ranks"):
        registry.check_release(tiny.bundle, CONTRACT)


def test_lineage_metrics_and_report_are_kept(
    registry: Registry, home: Home, tiny: TinyRun, tmp_path: Path
) -> None:
    report = tmp_path / "report.html"
    report.write_text("<p>fine</p>")
    _register(registry, home, tiny.bundle)
    bundle = _other(tiny, tmp_path / "b")
    done = _register(registry, home, bundle, report, home.pack(bundle.digest))
    with registry._client() as client:
        run = client.get_run(done.run_id)
        names = [entry.path for entry in client.list_artifacts(done.run_id, "bundle")]
        pack = [entry.path for entry in client.list_artifacts(done.run_id, "bundle/gates")]
        described = client.get_model_version("tidegate", "2").description
    assert run.data.metrics == {"weapons/ap": 0.5}
    assert run.data.params["git_commit"] == "abc123"
    assert run.data.params["parent_bundle"] == tiny.bundle.digest
    assert run.data.params["version.ngram"] == tiny.bundle.versions["ngram"]
    assert run.info.status == "FINISHED"
    assert sorted(names) == ["bundle/gates", "bundle/manifest.json", "bundle/report.html"]
    assert "bundle/gates/index.html" in pack
    assert run.data.tags["gates"] == done.tags["gates"] == "proposed"
    assert described.startswith("proposed")


def test_register_is_refused_when_lineage_lies(
    registry: Registry, home: Home, tiny: TinyRun, tmp_path: Path
) -> None:
    outcome = judged(tiny.bundle, home)
    with pytest.raises(PermanentError, match="snapshot is 1111"):
        registry.register(tiny.bundle, outcome, metrics={}, lineage={"snapshot": "1" * 64})
    other = _other(tiny, tmp_path / "b")
    with pytest.raises(PermanentError, match="the outcome is about bundle"):
        registry.register(other, outcome, metrics={}, lineage={})


def test_resolve_is_refused_when_there_is_no_version(registry: Registry) -> None:
    with pytest.raises(PermanentError, match="no version is champion; train and register one"):
        registry.resolve("champion")


def test_resolve_is_refused_when_bundle_changed(
    registry: Registry, home: Home, tiny_bundle: Bundle
) -> None:
    done = _register(registry, home, tiny_bundle)
    (done.folder / "ensemble.json").write_text("{}")
    with pytest.raises(BundleRejected, match=r"ensemble\.json: was altered"):
        registry.resolve("champion")
    shutil.rmtree(done.folder)
    with pytest.raises(PermanentError, match="is gone"):
        registry.resolve("champion")


def test_registry_speaks_to_no_network(
    registry: Registry, home: Home, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*address: object) -> None:
        raise AssertionError(f"connected to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert _register(registry, home, tiny_bundle).version == 1


def test_registry_is_quiet(
    registry: Registry, home: Home, tiny_bundle: Bundle, capfd: pytest.CaptureFixture[str]
) -> None:
    _register(registry, home, tiny_bundle)
    assert capfd.readouterr() == ("", "")


def test_unreachable_server_is_worth_a_retry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    registry = Registry("http://127.0.0.1:1", bundles=tmp_path, artifacts=tmp_path)
    with pytest.raises(TemporaryError, match=r"http://127\.0\.0\.1:1 failed"):
        registry.champion()
