"""Parts that proofs of several candidates have in common."""

import pytest

from components.prove.shared import Shared
from moderation.errors import PermanentError


def test_a_part_is_made_once_for_what_it_depends_on() -> None:
    shared, made = Shared(), list[str]()

    def make(name: str) -> list[str]:
        made.append(name)
        return [name]

    first = shared.once(("fresh", "digest"), lambda: make("first"))
    assert shared.once(("fresh", "digest"), lambda: make("again")) is first
    assert shared.once(("fresh", "other"), lambda: make("other")) == ["other"]
    assert made == ["first", "other"]
    assert Shared().once(("fresh", "digest"), lambda: make("elsewhere")) == ["elsewhere"]


def test_what_cannot_be_made_is_tried_again() -> None:
    shared = Shared()

    def fail() -> str:
        raise PermanentError("not there yet")

    with pytest.raises(PermanentError, match="not there yet"):
        shared.once("replay", fail)
    assert shared.once("replay", lambda: "there") == "there"
