"""Profiles are data: named, frozen, and told apart by digests."""

import pytest
from pydantic import ValidationError

from moderation.errors import SettingsError
from moderation.profiles import PROFILES, HeadsConfig, profile_named


def test_profile_is_found_when_it_exists() -> None:
    assert profile_named("small") is PROFILES["small"]


def test_profile_names_the_known_ones_when_unknown() -> None:
    with pytest.raises(SettingsError, match=r"'large'.*small, tiny, clip"):
        profile_named("large")


def test_towers_digest_stays_when_only_the_heads_change() -> None:
    tiny = PROFILES["tiny"]
    changed = tiny.model_copy(update={"heads": HeadsConfig(hidden=8)})
    assert changed.towers_digest == tiny.towers_digest
    assert changed.digest != tiny.digest


def test_towers_digest_changes_when_preprocessing_does() -> None:
    tiny = PROFILES["tiny"]
    changed = {
        tiny.model_copy(update={name: value}).towers_digest
        for name, value in (("image_size", 96), ("max_tokens", 32), ("mean", (0.4, 0.4, 0.4)))
    }
    assert len(changed | {tiny.towers_digest}) == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [("dropout", 1.0), ("epochs", 0), ("head", "deep"), ("learning_rate", 0.0), ("hiden", 3)],
)
def test_heads_refuse_a_value_when_it_is_out_of_range(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        HeadsConfig.model_validate({name: value})
