"""The policy file as a pipeline carries it: its text, so that a run does not depend on a file of the machine."""

import tempfile
from datetime import UTC, date, datetime, time
from pathlib import Path

from moderation.errors import PermanentError
from moderation.policy import PolicyFile, load_policies


def read_policies(text: str) -> PolicyFile:
    """Return the checked policies of a policy file's text; the digest is that of the text.

    Raises:
        PolicyError: naming each wrong field.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policies.yaml"
        path.write_bytes(text.encode("utf-8"))
        return load_policies(path)


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
