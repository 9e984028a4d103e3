import inspect
import json
from pathlib import Path

import pytest

import moderation.errors
import serving.errors
from ledger.ledger import LedgerConflict, LedgerUnavailable
from moderation.errors import (
    BundleRejected,
    InvalidListing,
    ModelNotReady,
    PermanentError,
    TidegateError,
)
from serving.errors import STATUS, PredictorTimeout, status_of
from serving.gateway.answers import error_answer


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidListing("title", "is bad"), 400),
        (ModelNotReady("wait"), 503),
        (LedgerUnavailable("locked"), 503),
        (PredictorTimeout("late"), 503),
        (LedgerConflict("x"), 409),
        (BundleRejected("altered"), 500),
        (ValueError("a bug"), 500),
    ],
)
def test_status_follows_the_kind_of_error(error: Exception, status: int) -> None:
    assert status_of(error) == status


def test_a_caller_is_not_told_where_files_lie() -> None:
    lost = LedgerUnavailable("database is locked", file=Path("/srv/home/ledger.sqlite"))
    assert str(lost) == "/srv/home/ledger.sqlite: database is locked"
    said = json.loads(bytes(error_answer(lost).body))
    assert (said["error"], said["message"]) == ("LedgerUnavailable", "database is locked")
    ours = error_answer(BundleRejected("/srv/home/bundles/b: altered"))
    assert (ours.status_code, b"srv" in bytes(ours.body)) == (500, False)


@pytest.mark.parametrize("module", [moderation.errors, serving.errors])
def test_every_error_has_a_status(module: object) -> None:
    kinds = [
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, TidegateError) and kind is not TidegateError
    ]
    assert kinds
    assert all(set(kind.__mro__) & set(STATUS) for kind in kinds)
    assert STATUS[PermanentError] == 500, "a permanent error that nobody mapped is our own fault"
