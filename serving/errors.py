"""Errors of serving, and the one table that says which HTTP status an error gets."""

from typing import Final

from ledger.ledger import LedgerConflict
from moderation.errors import InvalidListing, PermanentError, TemporaryError


class BadRequest(PermanentError):
    """The request is not what the API describes; the message says what to send (HTTP 400)."""


class Unauthenticated(PermanentError):
    """No known caller; send `Authorization: Bearer <token>` (HTTP 401)."""


class Forbidden(PermanentError):
    """The caller's role may not do this (HTTP 403)."""


class NotFound(PermanentError):
    """There is no such thing (HTTP 404)."""


class NotOffered(PermanentError):
    """This process was not set up for it; the message says how (HTTP 404)."""


class SubmissionConflict(PermanentError):
    """The id was used for another content; send new content under a new id (HTTP 409)."""


class NothingToChange(PermanentError):
    """It is in the asked state already (HTTP 409)."""


class BodyTooSlow(TemporaryError):
    """The body did not come whole in time; send it again, faster (HTTP 408)."""


class BodyTooLarge(PermanentError):
    """The body is beyond the limit and was not read to its end (HTTP 413)."""


class WrongMediaType(PermanentError):
    """The body is of a kind that is not understood (HTTP 415)."""


class QuotaExceeded(TemporaryError):
    """The caller sends more than its share; wait `delay_s` and send again (HTTP 429)."""


class PredictorError(TemporaryError):
    """The predictor gave no usable answer; decide by the failure policy."""


class PredictorTimeout(PredictorError):
    """The predictor did not answer in time; decide by the failure policy."""


class PredictorRefused(PredictorError):
    """The predictor works but refuses this one request; decide by the failure policy."""


class PredictorOverloaded(PredictorError):
    """The predictor works but has no room now; decide by the failure policy, come back after `delay_s`."""


STATUS: Final[dict[type[Exception], int]] = {
    InvalidListing: 400,
    BadRequest: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    NotOffered: 404,
    BodyTooSlow: 408,
    SubmissionConflict: 409,
    LedgerConflict: 409,
    NothingToChange: 409,
    BodyTooLarge: 413,
    WrongMediaType: 415,
    QuotaExceeded: 429,
    TemporaryError: 503,
    PermanentError: 500,
}


def status_of(error: Exception) -> int:
    """Return the HTTP status of an error; what is not in the table is our own fault, 500."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)
