"""Who may call: bearer tokens with a role, from the settings."""

import hashlib
import hmac
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from moderation.errors import SettingsError
from serving.errors import Forbidden, Unauthenticated

_SHAPE = (
    "gateway_tokens: send `name:role:token`, comma-separated; roles are submitter, reviewer, admin"
)


class Role(StrEnum):
    """What a caller may do."""

    SUBMITTER = "submitter"
    REVIEWER = "reviewer"
    ADMIN = "admin"


SUBMITS = frozenset({Role.SUBMITTER, Role.ADMIN})
SEES_EVIDENCE = frozenset({Role.REVIEWER, Role.ADMIN})
STEERS = frozenset({Role.ADMIN})


@dataclass(frozen=True)
class Caller:
    """An authenticated caller."""

    name: str
    role: Role


class Callers:
    """Every known caller.

    Args:
        setting: `name:role:token`, comma-separated; empty admits nobody.

    Raises:
        SettingsError: if an entry is not of that shape, or two share a name or a token.
    """

    def __init__(self, setting: str) -> None:
        entries = [entry.strip() for entry in setting.split(",") if entry.strip()]
        self._callers = [_parse(entry, place) for place, entry in enumerate(entries)]
        names = {caller.name for caller, _ in self._callers}
        digests = {digest for _, digest in self._callers}
        if min(len(names), len(digests)) < len(entries):
            raise SettingsError("gateway_tokens: two callers share a name or a token")

    def authenticate(self, header: str | None) -> Caller:
        """Return the caller of an Authorization header, in the same time whichever token matches.

        Raises:
            Unauthenticated: if there is none.
        """
        scheme, _, token = (header or "").partition(" ")
        digest = _digest(token.strip())
        matches = [c for c, known in self._callers if hmac.compare_digest(known, digest)]
        if scheme.lower() != "bearer" or not matches:
            raise Unauthenticated("no known caller; send `Authorization: Bearer <token>`")
        return matches[0]


def require(caller: Caller, roles: Collection[Role]) -> None:
    """Pass if the caller has one of `roles`.

    Raises:
        Forbidden: if not.
    """
    if caller.role not in roles:
        allowed = ", ".join(sorted(roles))
        raise Forbidden(f"role {caller.role} may not do this; it takes one of {allowed}")


def _parse(entry: str, place: int) -> tuple[Caller, bytes]:
    name, _, rest = entry.partition(":")
    role, _, token = rest.partition(":")
    if not (name and token) or role not in set(Role):
        # The entry holds a secret, so it is named by its place only.
        raise SettingsError(f"{_SHAPE} (entry {place + 1})")
    return Caller(name, Role(role)), _digest(token)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
