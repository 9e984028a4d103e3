"""Settings: typed, ranged, and loud about a misspelt variable."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from moderation.errors import SettingsError
from moderation.release import STANDARD
from moderation.settings import Settings, settings


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    settings.cache_clear()
    yield
    settings.cache_clear()


def test_setting_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE__NUM_THREADS", "3")
    assert settings().num_threads == 3


def test_home_accepts_the_standard_profile_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings().release_profile == STANDARD
    monkeypatch.setenv("TIDEGATE__RELEASE_PROFILE", "demo")
    settings.cache_clear()
    assert settings().release_profile == "demo"


def test_misspelt_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE__NUM_THREAD", "3")
    with pytest.raises(SettingsError, match="TIDEGATE__NUM_THREAD; known are .*TIDEGATE__HOME"):
        settings()


def test_value_out_of_range_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE__NUM_THREADS", "0")
    with pytest.raises(SettingsError, match="TIDEGATE__NUM_THREADS: .*greater than or equal to 1"):
        settings()


def test_variable_of_a_service_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_SERVICE_HOST", "10.0.0.1")
    assert settings().num_threads >= 1


def test_tokens_do_not_show_in_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE__GATEWAY_TOKENS", "shop:submitter:very-secret")
    assert "very-secret" not in repr(settings())


def test_patterns_lie_beside_the_policies_where_nothing_else_is_said(tmp_path: Path) -> None:
    config = Settings(policy_file=tmp_path / "own.yaml")
    assert not config.patterns
    (tmp_path / "patterns.yaml").touch()
    assert config.patterns == tmp_path / "patterns.yaml"
    named = config.model_copy(update={"pattern_file": tmp_path / "gone.yaml"})
    assert named.patterns == tmp_path / "gone.yaml", "what is named must be there when it is read"
