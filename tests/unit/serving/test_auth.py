import pytest

from moderation.errors import SettingsError
from serving.errors import Forbidden, Unauthenticated
from serving.gateway.auth import SUBMITS, Caller, Callers, Role, require


def test_callers_are_found_by_token() -> None:
    callers = Callers("shop:submitter:a:b, ana:reviewer:c")
    assert callers.authenticate("Bearer a:b") == Caller("shop", Role.SUBMITTER)
    assert callers.authenticate("bearer  c") == Caller("ana", Role.REVIEWER)


@pytest.mark.parametrize("header", [None, "Bearer ", "Bearer x", "c", "Basic c"])
def test_callers_are_refused_when_unknown(header: str | None) -> None:
    with pytest.raises(Unauthenticated):
        Callers("ana:reviewer:c").authenticate(header)


@pytest.mark.parametrize("header", ["Bearer ", "Bearer", ""])
def test_nobody_is_admitted_when_there_are_no_callers(header: str) -> None:
    with pytest.raises(Unauthenticated):
        Callers("").authenticate(header)


@pytest.mark.parametrize(
    "setting",
    [
        "shop",
        "shop:submitter",
        "shop:submitter:",
        ":admin:t",
        "shop:king:secret",
        "a:admin:t,b:admin:t",
        "a:admin:t,a:admin:u",
    ],
)
def test_callers_are_refused_when_the_setting_is_wrong(setting: str) -> None:
    with pytest.raises(SettingsError, match="gateway_tokens") as caught:
        Callers(setting)
    assert "secret" not in str(caught.value), "a token never reaches a log"


def test_role_is_required() -> None:
    require(Caller("shop", Role.SUBMITTER), SUBMITS)
    with pytest.raises(Forbidden, match="reviewer"):
        require(Caller("ana", Role.REVIEWER), SUBMITS)
