"""A predictor serves what the gates passed, and nothing else unless it is told to in so many words."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from components.home import Home
from moderation import attestation
from moderation.attestation import Statement
from moderation.bundle import ATTESTATIONS, Bundle, build
from moderation.clock import SystemClock
from moderation.settings import Settings, settings
from serving.process import StartFailed, start_predictor
from serving.routing import load_table
from tests.judged import BAD, CONTRACT_TEXT, judged
from tests.tiny_bundle import TinyRun
from tidegate.serving import serving

pytestmark = pytest.mark.slow


@pytest.fixture
def contract(tmp_path: Path) -> Path:
    """The file of the contract that bundles are judged under here."""
    path = tmp_path / "release.yaml"
    path.write_text(CONTRACT_TEXT)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def config(home: Home, contract: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setenv("TIDEGATE__HOME", str(home.folder))
    monkeypatch.setenv("TIDEGATE__RELEASE_FILE", str(contract))
    settings.cache_clear()
    yield settings()
    settings.cache_clear()


def _judged(bundle: Bundle, home: Home, **how: object) -> Path:
    """Return the copy of a bundle that carries its record."""
    judged(bundle, home, **how)  # type: ignore[arg-type]  # as the caller gave them
    return home.bundles / bundle.digest


def _digest_served(bundle: Path, contract: Path, logs: Path, **variables: str) -> str:
    environment = {"TIDEGATE__RELEASE_FILE": str(contract), **variables}
    with start_predictor(
        bundle, log_folder=logs, num_threads=1, environment=environment
    ) as process:
        described = httpx.get(f"{process.http_url}/v2/models/tidegate", trust_env=False).json()
    return str(described["versions"][0])


def _refusal(bundle: Path, contract: Path, logs: Path) -> str:
    with pytest.raises(StartFailed) as refused:
        _digest_served(bundle, contract, logs)
    assert "ended with status 1" in str(refused.value)
    return str(refused.value)


def test_a_bundle_that_passed_is_served(
    tiny_bundle: Bundle, home: Home, contract: Path, tmp_path: Path
) -> None:
    folder = _judged(tiny_bundle, home)
    assert _digest_served(folder, contract, tmp_path) == tiny_bundle.digest


def test_a_bundle_that_was_never_judged_is_refused(
    tiny_bundle: Bundle, contract: Path, tmp_path: Path
) -> None:
    told = _refusal(tiny_bundle.folder, contract, tmp_path)
    assert (
        f"never judged by the gates; run `tidegate gates run --bundle {tiny_bundle.folder}" in told
    )


def test_a_bundle_that_was_blocked_is_refused(
    tiny_bundle: Bundle, home: Home, contract: Path, tmp_path: Path
) -> None:
    _judged(tiny_bundle, home)
    folder = _judged(tiny_bundle, home, separation=BAD)
    told = _refusal(folder, contract, tmp_path)
    assert "was blocked on" in told
    assert "by ranks" in told


def test_the_attestation_of_another_bundle_counts_for_nothing(
    tiny: TinyRun, home: Home, contract: Path, bundle_copy: Path, tmp_path: Path
) -> None:
    inputs = tiny.description.inputs.model_copy(update={"seed": 12})
    description = tiny.description.model_copy(update={"inputs": inputs})
    other = _judged(build(tmp_path / "other", tiny.parts, description), home)
    shutil.copytree(other / ATTESTATIONS, bundle_copy / ATTESTATIONS)
    assert "is about bundle" in _refusal(bundle_copy, contract, tmp_path)


def test_what_passed_starts_again_when_the_contract_has_changed(
    tiny_bundle: Bundle, home: Home, contract: Path, tmp_path: Path
) -> None:
    folder = _judged(tiny_bundle, home)
    contract.write_text(CONTRACT_TEXT + "# a reviewed change\n")
    environment = {"TIDEGATE__RELEASE_FILE": str(contract)}
    with start_predictor(
        folder, log_folder=tmp_path, num_threads=1, environment=environment
    ) as process:
        assert "under another contract than the one in force" in process.log.read_text()


def test_what_was_blocked_stays_refused_whatever_passed_elsewhere(
    tiny_bundle: Bundle, home: Home, contract: Path, tmp_path: Path
) -> None:
    folder = _judged(tiny_bundle, home, separation=BAD, champion="c" * 64)
    judged(tiny_bundle, home)
    blocked, passed = attestation.read(Bundle.open(folder))
    said = {name: getattr(passed, name) for name in Statement.model_fields}
    elsewhere = Statement.model_validate(said | {"contract": "1" * 64})
    attestation.append(Bundle.open(folder), elsewhere, clock=SystemClock(), tool="tests")
    assert (blocked.is_passing, passed.is_passing) == (False, True)
    assert "beside the champion cccccccccccc by ranks" in _refusal(folder, contract, tmp_path)


def test_a_weaker_profile_counts_where_it_is_accepted(
    tiny_bundle: Bundle, home: Home, contract: Path, tmp_path: Path
) -> None:
    folder = _judged(tiny_bundle, home, profile="lenient")
    assert "does not count in this home" in _refusal(folder, contract, tmp_path)
    digest = _digest_served(folder, contract, tmp_path, TIDEGATE__RELEASE_PROFILE="lenient")
    assert digest == tiny_bundle.digest


def test_an_unattested_bundle_is_served_aloud(
    tiny_bundle: Bundle, contract: Path, tmp_path: Path
) -> None:
    with start_predictor(
        tiny_bundle.folder,
        log_folder=tmp_path,
        num_threads=1,
        environment={"TIDEGATE__RELEASE_FILE": str(contract)},
        is_unattested=True,
    ) as process:
        log = process.log.read_text()
    (line,) = (line for line in log.splitlines() if "whatever the gates say" in line)
    assert '"warning"' in line.lower()
    assert tiny_bundle.digest in line


def test_serve_starts_a_predictor_on_the_copy_that_was_judged(
    tiny_bundle: Bundle, home: Home, config: Settings
) -> None:
    judged(tiny_bundle, home, profile="lenient")
    accepting = config.model_copy(update={"release_profile": "lenient"})
    with serving(tiny_bundle, accepting) as served:
        log = served.predictor.log.read_text()
        assert load_table(home.routing).champion == served.attestation.bundle
    assert served.attestation.digest in log
    assert "whatever the gates say" not in log
