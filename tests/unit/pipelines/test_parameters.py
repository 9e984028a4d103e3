from pathlib import Path

import pytest

from moderation.errors import PermanentError, PolicyError, SettingsError
from moderation.settings import Settings
from pipelines import parameters as subject
from pipelines.parameters import Choices, code_digest, config_digest, for_submission, parameters
from tests.toy_home import toy_home


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=toy_home(tmp_path_factory.mktemp("home"), 8).folder)


def test_parameters_default_to_the_day_after_the_newest_truth(settings: Settings) -> None:
    found = parameters(Choices(profile="tiny"), settings)
    assert found.logical_date == "2026-03-02"
    assert found.home == str(settings.home.resolve())
    assert "reason_code" in found.policies


def test_parameters_are_the_same_when_nothing_changed(settings: Settings) -> None:
    assert parameters(Choices(), settings) == parameters(Choices(), settings)


def test_parameters_see_the_date_in_the_data_version(settings: Settings) -> None:
    early = parameters(Choices("2026-03-01"), settings)
    late = parameters(Choices("2026-03-02"), settings)
    assert early.data_version != late.data_version
    assert early.code_digest == late.code_digest


def test_parameters_refuse_a_home_without_truth(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="holds no ledger"):
        parameters(Choices(), Settings(home=tmp_path))


def test_parameters_refuse_an_unknown_profile(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="no such profile: 'huge'"):
        parameters(Choices(profile="huge"), settings)


def test_parameters_refuse_a_broken_policy_file(settings: Settings, tmp_path: Path) -> None:
    broken = tmp_path / "policies.yaml"
    broken.write_text("version: 1")
    with pytest.raises(PolicyError, match="policies"):
        parameters(Choices(), settings.model_copy(update={"policy_file": broken}))
    with pytest.raises(SettingsError, match="TIDEGATE__POLICY_FILE"):
        parameters(Choices(), settings.model_copy(update={"policy_file": tmp_path / "none"}))


def test_parameters_refuse_a_policy_file_too_long_for_a_command_line(
    settings: Settings, tmp_path: Path
) -> None:
    long = tmp_path / "policies.yaml"
    text = settings.policy_file.read_text(encoding="utf-8")
    long.write_text(text + "# padding\n" * 12_000)
    with pytest.raises(SettingsError, match="larger than 100000 bytes"):
        parameters(Choices(), settings.model_copy(update={"policy_file": long}))
    long.write_text(text + "# padding\n" * 9_500)
    with pytest.raises(SettingsError, match="together larger than 100000 bytes"):
        parameters(Choices(), settings.model_copy(update={"policy_file": long}))


def test_parameters_carry_the_contract_and_its_profile(settings: Settings) -> None:
    accepting = settings.model_copy(update={"release_profile": "demo"})
    found = parameters(Choices(release_profile="demo"), accepting)
    standard = parameters(Choices(), settings)
    assert found.release_contract == settings.release_file.read_text(encoding="utf-8")
    assert (found.release_profile, standard.release_profile) == ("demo", "standard")
    assert found.config_digest == standard.config_digest, "a bundle does not depend on its judges"


def test_parameters_refuse_a_profile_that_counts_for_nothing(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="set TIDEGATE__RELEASE_PROFILE=demo"):
        parameters(Choices(release_profile="demo"), settings)


def test_parameters_refuse_a_broken_contract(settings: Settings, tmp_path: Path) -> None:
    broken = tmp_path / "release.yaml"
    broken.write_text("version: 1")
    with pytest.raises(PolicyError, match="gates: Field required"):
        parameters(Choices(), settings.model_copy(update={"release_file": broken}))
    with pytest.raises(SettingsError, match="TIDEGATE__RELEASE_FILE"):
        parameters(Choices(), settings.model_copy(update={"release_file": tmp_path / "none"}))
    with pytest.raises(SettingsError, match="has no profile easy; it has .*'standard'"):
        parameters(Choices(release_profile="easy"), settings)


@pytest.mark.parametrize(
    "other", [Choices(seed=1), Choices(profile="tiny"), Choices(num_trials=1), Choices()]
)
def test_config_digest_follows_every_choice(other: Choices) -> None:
    same = config_digest(Choices(seed=17), "policies", 2)
    changed = config_digest(other, "policies", 2)
    assert (changed == same) == (other == Choices())
    assert config_digest(Choices(), "other policies", 2) != same
    assert config_digest(Choices(), "policies", 1) != same


def test_code_digest_follows_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("moderation", "ledger", "components", "pipelines"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    monkeypatch.setattr(subject, "_package_folder", lambda package: tmp_path / package)
    before = code_digest()
    (tmp_path / "moderation" / "notes.md").write_text("not code")
    (tmp_path / "tidegate").mkdir()
    assert code_digest() == before
    (tmp_path / "moderation" / "new.py").write_text("x = 1")
    after = code_digest()
    assert after != before
    (tmp_path / "requirements.lock").write_text("numpy==2")
    assert code_digest() != after


def test_submission_leaves_home_and_data_to_the_cluster() -> None:
    found = for_submission(Choices("2026-11-20"), Settings())
    assert (found.home, found.data_version) == ("", "")
    assert found.logical_date == "2026-11-20"
