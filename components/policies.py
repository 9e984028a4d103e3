"""The policy file as a pipeline carries it: its text, so that a run does not depend on a file of the machine."""

from datetime import UTC, date, datetime, time
from typing import Final

from moderation.errors import PermanentError
from moderation.policy import PolicyFile, parse_policies

ORIGIN: Final = "the pipeline's policies"


def read_policies(text: str, origin: str = ORIGIN) -> PolicyFile:
    """Return the checked policies of a policy file's text; the digest is that of the text.

    Args:
        text: content of the file.
        origin: where the text came from, for people.

    Raises:
        PolicyError: naming the origin and each wrong field.
    """
    return parse_policies(text.encode("utf-8"), origin)


def cut_off_of(logical_date: str) -> datetime:
    """Return the instant that a run of this day sees until: the start of the day, UTC.

    Raises:
        PermanentError: if it is not a date.
    """
    try:
        day = date.fromisoformat(logical_date)
    except ValueError as error:
        raise PermanentError(f"logical date {logical_date!r}: write it as 2026-11-20") from error
    return datetime.combine(day, time.min, UTC)
