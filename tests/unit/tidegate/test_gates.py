"""The gates as commands, and serving: nothing answers that the gates did not pass."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.home import Home
from components.registry import Registry
from moderation import attestation
from moderation.attestation import Statement
from moderation.bundle import ATTESTATIONS, Bundle, build
from moderation.clock import SystemClock
from moderation.errors import BundleRejected, GateRejected, PermanentError, TidegateError
from moderation.settings import Settings, settings
from serving.routing import load_table
from tests.judged import BAD, CONTRACT_TEXT, contract, judged
from tests.tiny_bundle import TinyRun
from tidegate.app import app
from tidegate.serving import route, serving

RUNNER = CliRunner(env={"COLUMNS": "200"})


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Settings of a home of its own, under the contract of one gate."""
    (tmp_path / "release.yaml").write_text(CONTRACT_TEXT)
    monkeypatch.setenv("TIDEGATE__HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TIDEGATE__RELEASE_FILE", str(tmp_path / "release.yaml"))
    settings.cache_clear()
    yield settings()
    settings.cache_clear()


@pytest.fixture
def home(config: Settings) -> Home:
    return Home(config.home)


def _other(tiny: TinyRun, folder: Path) -> Bundle:
    inputs = tiny.description.inputs.model_copy(update={"seed": 12})
    return build(folder, tiny.parts, tiny.description.model_copy(update={"inputs": inputs}))


def _register(
    home: Home, bundle: Bundle, champion: str | None = None, profile: str = "standard"
) -> Registry:
    registry = Registry(
        home.tracking_url, bundles=home.bundles, artifacts=home.artifacts, accepts=profile
    )
    outcome = judged(bundle, home, champion=champion, profile=profile)
    registry.register(bundle, outcome, metrics={}, lineage={})
    return registry


def _call(*arguments: str) -> str:
    done = RUNNER.invoke(app, ["gates", *arguments])
    if isinstance(done.exception, TidegateError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def _serve(bundle: Bundle, config: Settings) -> None:
    with serving(bundle, config):
        pytest.fail("it must not be served")


def test_serve_is_refused_when_never_judged(tiny_bundle: Bundle, config: Settings) -> None:
    with pytest.raises(GateRejected, match=r"never judged .* run `tidegate gates run --bundle"):
        _serve(tiny_bundle, config)
    assert not Home(config.home).logs.exists(), "refused before anything starts"


def test_serve_is_refused_when_the_newest_verdict_blocks(
    tiny_bundle: Bundle, config: Settings, home: Home
) -> None:
    judged(tiny_bundle, home)
    judged(tiny_bundle, home, separation=BAD)
    with pytest.raises(GateRejected, match="blocked on .* by ranks"):
        _serve(tiny_bundle, config)


def test_serve_is_refused_under_another_contract(
    tiny_bundle: Bundle, config: Settings, home: Home
) -> None:
    judged(tiny_bundle, home)
    config.release_file.write_text(CONTRACT_TEXT + "# a reviewed change\n")
    with pytest.raises(GateRejected, match="not under the one in force"):
        _serve(tiny_bundle, config)


def test_serve_is_refused_when_the_record_was_altered(
    tiny_bundle: Bundle, config: Settings, home: Home
) -> None:
    judged(tiny_bundle, home, separation=BAD)
    (path,) = (home.bundles / tiny_bundle.digest / ATTESTATIONS).iterdir()
    path.write_text(path.read_text().replace('"fail"', '"pass"'))
    with pytest.raises(BundleRejected, match="was altered"):
        _serve(tiny_bundle, config)


def test_serve_is_refused_when_a_statement_is_no_judgement(
    bundle_copy: Path, config: Settings
) -> None:
    bundle = Bundle.open(bundle_copy)
    passed = attestation.Verdict(gate="own", verdict="pass", reason="said by somebody else")
    for verdicts in ((passed,), ()):
        kind = "evaluation" if verdicts else "gates"
        statement = Statement(kind=kind, contract=contract().digest, sets={}, verdicts=verdicts)
        attestation.append(bundle, statement, clock=SystemClock(), tool="tests")
    with pytest.raises(GateRejected, match="never judged by the gates"):
        _serve(bundle, config)


def test_serve_is_refused_when_the_champion_was_not_beaten(
    tiny: TinyRun, config: Settings, home: Home, tmp_path: Path
) -> None:
    _register(home, tiny.bundle)
    other = _other(tiny, tmp_path / "other")
    judged(other, home, champion=None)
    with pytest.raises(GateRejected, match="compared with no champion, but the champion is"):
        _serve(other, config)


def test_route_keeps_uncertified_tiers_closed(tiny_bundle: Bundle, tmp_path: Path) -> None:
    judged(tiny_bundle, Home(tmp_path))
    said = attestation.require_passing(
        Bundle.open(tmp_path / "bundles" / tiny_bundle.digest), contract().digest
    )
    closed = said.model_copy(update={"caps": {"spam": "block"}})
    route(tmp_path / "routing.json", closed, "grpc://127.0.0.1:1")
    table = load_table(tmp_path / "routing.json")
    assert table.champion == tiny_bundle.digest
    assert table.releases[table.champion].caps == {"spam": "block"}


def test_list_shows_every_gate_and_profile(config: Settings) -> None:
    shown = _call("list")
    for word in ("ranks", "at least 0.5", "better", "beside the champion's", "profile lenient"):
        assert word in shown


def test_show_gives_the_last_verdict_with_its_pack(
    tiny_bundle: Bundle, config: Settings, home: Home
) -> None:
    judged(tiny_bundle, home, separation=BAD)
    shown = _call("show", tiny_bundle.digest[:10])
    assert "blocks" in shown
    assert "first release: no champion" in shown
    assert str(home.pack(tiny_bundle.digest) / "index.html") in shown.replace("\n", "")
    config.release_file.write_text(CONTRACT_TEXT + "# changed\n")
    assert "another contract" in _call("show", str(tiny_bundle.folder))


def test_show_names_the_remedy_when_never_judged(tiny_bundle: Bundle, config: Settings) -> None:
    with pytest.raises(PermanentError, match="run `tidegate gates run"):
        _call("show", str(tiny_bundle.folder))
    with pytest.raises(PermanentError, match="holds none of that name"):
        _call("show", "abc")


def test_promote_makes_the_candidate_champion_and_undoes(
    tiny: TinyRun, config: Settings, home: Home, tmp_path: Path
) -> None:
    registry = _register(home, tiny.bundle)
    other = _other(tiny, tmp_path / "other")
    _register(home, other, champion=tiny.bundle.digest)
    told = _call("promote").replace("\n", "")
    assert f"tidegate gates promote {tiny.bundle.digest}" in told
    champion = registry.champion()
    assert champion is not None
    assert champion.digest == other.digest
    assert "is the champion already" in _call("promote", other.digest[:12])
    _call("promote", tiny.bundle.digest)
    champion = registry.champion()
    assert champion is not None
    assert champion.digest == tiny.bundle.digest


def test_weaker_pass_is_released_only_where_the_home_accepts_it(
    tiny: TinyRun, config: Settings, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _register(home, tiny.bundle, profile="lenient")
    other = _other(tiny, tmp_path / "other")
    registry = _register(home, other, champion=tiny.bundle.digest, profile="lenient")
    with pytest.raises(GateRejected, match=r"'lenient', which does not count in this home; run `"):
        _call("promote")
    with pytest.raises(GateRejected, match="TIDEGATE__RELEASE_PROFILE=lenient"):
        _serve(tiny.bundle, config)
    monkeypatch.setenv("TIDEGATE__RELEASE_PROFILE", "lenient")
    settings.cache_clear()
    _call("promote")
    champion = registry.champion()
    assert champion is not None
    assert champion.digest == other.digest


def test_promote_is_refused_without_a_candidate_or_verdict(
    tiny: TinyRun, config: Settings, home: Home, tmp_path: Path
) -> None:
    with pytest.raises(PermanentError, match="no version is candidate"):
        _call("promote")
    _register(home, tiny.bundle)
    other = _other(tiny, tmp_path / "other")
    with pytest.raises(PermanentError, match="is not registered"):
        _call("promote", str(other.folder))
    _register(home, other, champion=tiny.bundle.digest)
    shutil.rmtree(home.bundles / other.digest / ATTESTATIONS)
    with pytest.raises(GateRejected, match="never judged"):
        _call("promote")
