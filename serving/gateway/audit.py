"""The random audit: every decision has a known chance to be looked at, and the chance is recorded, drawn or not."""

import secrets
from pathlib import Path
from typing import Final

from prometheus_client import Counter

from ledger.events import ReviewTask
from moderation.auditing import is_drawn
from moderation.decision import Decision
from moderation.errors import SettingsError
from moderation.files import create_file
from moderation.serving_rules import Audit

DRAWN: Final = Counter(
    "tidegate_audits_drawn_total", "Decisions drawn for a random audit.", ["tier"]
)

AUDIT: Final = "AUDIT"
"""Reason of the review that an audit opens; never shown to a seller."""

_SALT_BYTES: Final = 32


class RandomAudit:
    """Draws decisions at the chances of the contract.

    Args:
        rules: chance by tier.
        salt: secret of the home; with it the draw can be repeated.
    """

    def __init__(self, rules: Audit, salt: bytes) -> None:
        self._rules, self._salt = rules, salt

    def settle(self, decision: Decision) -> Decision:
        """Return the decision with the chance that its tier has."""
        chance = self._rules.chance_of(decision.tier)
        return decision.model_copy(update={"audit_probability": chance})

    def task(self, decision: Decision) -> ReviewTask | None:
        """Return the review that the audit opens; None where the decision was not drawn."""
        if not is_drawn(decision.submission_id, decision.audit_probability, self._salt):
            return None
        return ReviewTask(
            task_id=audit_task_id(decision),
            submission_id=decision.submission_id,
            trace_id=decision.trace_id,
            priority="low",
            reason=AUDIT,
            opened_at=decision.decided_at,
        )


def audit_task_id(decision: Decision) -> str:
    """Return the id of the review that an audit of a decision opens."""
    return f"{decision.decision_id}:audit"


def audit_salt(path: Path) -> bytes:
    """Return the secret of a home, made at the first call and readable by its owner alone.

    Two processes that start at once get the same.

    Raises:
        SettingsError: if the file cannot be read or made, or holds something else.
    """
    try:
        return _salt(path)
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read or made: {error}; let the gateway write there"
        ) from error


def _salt(path: Path) -> bytes:
    if not path.exists():
        create_file(path, secrets.token_hex(_SALT_BYTES).encode())
    try:
        salt = bytes.fromhex(path.read_text(encoding="ascii"))
    except ValueError as error:
        raise SettingsError(f"{path} is damaged; put back a copy, or delete it") from error
    if len(salt) != _SALT_BYTES:
        raise SettingsError(f"{path} is damaged; put back a copy, or delete it")
    return salt
