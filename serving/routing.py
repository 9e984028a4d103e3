"""Which release answers an upload: the routing table, its sticky split and the lease that a candidate lives on."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from prometheus_client import Counter
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from moderation.attestation import Attestation, TierName
from moderation.clock import Clock
from moderation.errors import ModelNotReady, PermanentError
from moderation.files import FollowedFile, replace_file
from moderation.listing import Digest

_LOG = logging.getLogger(__name__)

REFUSED: Final = Counter(
    "tidegate_routing_tables_refused_total",
    "Routing tables that were not applied because they do not load.",
)

Weight = Annotated[float, Field(ge=0, le=1)]
Arm = Literal["champion", "candidate"]


def _with_a_port(url: str) -> str:
    if not 0 < int(url.rpartition(":")[2]) < 2**16:
        raise ValueError("a port is a number from 1 to 65535")
    return url


class Route(BaseModel):
    """Where one release is served, and the share of traffic it should get."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Annotated[
        str, Field(pattern=r"^grpc://[A-Za-z0-9.\-]+:[0-9]{1,5}$"), AfterValidator(_with_a_port)
    ]
    weight: Weight = 0.0
    """Share of a candidate; the champion takes what is left, whatever is written here."""

    caps: dict[str, TierName] = Field(default_factory=dict)
    """Policy -> weakest tier that stays closed, and every stronger one: not certified when the release was judged."""

    @classmethod
    def of(cls, attestation: Attestation, url: str, *, weight: float) -> "Route":
        """Return the route of a judged bundle; tiers that it was not certified for stay closed."""
        return cls(url=url, weight=weight, caps=attestation.caps)


class RoutingTable(BaseModel):
    """Every release that may answer, and how traffic is split between them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    revision: Annotated[int, Field(ge=0)]
    renewal: Annotated[int, Field(ge=0)] = 0
    """Grows with every renewal of the candidate's lease."""

    lease_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0
    champion: Digest
    releases: dict[Digest, Route]
    shadow: Digest | None = None
    salt: str = ""
    """Changes the split; keep it for the length of a rollout, or sellers change sides."""

    @property
    def candidate(self) -> str | None:
        """Digest of the release beside the champion that has weight, if any."""
        others = (d for d, r in self.releases.items() if d != self.champion and r.weight > 0)
        return next(others, None)

    @model_validator(mode="after")
    def _holds_together(self) -> "RoutingTable":
        for role, digest in (("champion", self.champion), ("shadow", self.shadow)):
            if digest is not None and digest not in self.releases:
                raise ValueError(f"{role} {digest} is not among the releases")
        weighted = [d for d, r in self.releases.items() if d != self.champion and r.weight > 0]
        if len(weighted) > 1:
            raise ValueError(f"only one candidate may have weight, not {sorted(weighted)}")
        return self


@dataclass(frozen=True)
class Lease:
    """What a gateway knows of the candidate's lease; `renewed_at` is on its own monotonic clock."""

    renewal: int | None = None
    renewed_at: float | None = None

    def observe(self, renewal: int, now: float) -> "Lease":
        """Return the lease after a look at the table.

        A renewal that was there when the gateway started says nothing about its age, so it only sets the mark.
        """
        if self.renewal is None:
            return Lease(renewal, None)
        if renewal > self.renewal:
            return Lease(renewal, now)
        return self

    def is_live(self, lease_s: float, now: float) -> bool:
        """Return whether a candidate may get traffic at `now`."""
        return self.renewed_at is not None and now - self.renewed_at < lease_s


@dataclass(frozen=True)
class Choice:
    """The release that one upload goes to."""

    release: str
    url: str
    arm: Arm
    weight: float
    revision: int
    caps: Mapping[str, TierName]


def choose(table: RoutingTable, sticky_key: str, *, is_lease_live: bool) -> Choice:
    """Return the release for `sticky_key`; the same key gets the same one while table and lease stand."""
    candidate = table.candidate if is_lease_live else None
    share = table.releases[candidate].weight if candidate else 0.0
    if candidate and _position(table.salt, sticky_key) < share:
        return _choice(table, candidate, "candidate", share)
    return _choice(table, table.champion, "champion", 1.0 - share)


def _choice(table: RoutingTable, release: str, arm: Arm, share: float) -> Choice:
    route = table.releases[release]
    return Choice(release, route.url, arm, share, table.revision, route.caps)


def _position(salt: str, sticky_key: str) -> float:
    """Return where a key falls in [0, 1)."""
    digest = hashlib.sha256(f"{salt}\x1f{sticky_key}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def write_table(path: Path, table: RoutingTable) -> None:
    """Put `table` where gateways read it, all at once, and on the disk when this returns.

    Raises:
        OSError: if it cannot be written; the table that was there stays.
    """
    text = json.dumps(table.model_dump(mode="json"), indent=2, sort_keys=True)
    replace_file(path, text.encode())


def load_table(path: Path) -> RoutingTable:
    """Return the checked routing table of a file.

    Raises:
        PermanentError: naming the file and each wrong field.
    """
    try:
        return _parse(path.read_bytes(), path)
    except OSError as error:
        raise PermanentError(f"{path}: cannot be read: {error}") from error


def _parse(raw: bytes, origin: Path) -> RoutingTable:
    try:
        return RoutingTable.model_validate_json(raw)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise PermanentError(f"{origin}: {wrong}") from error


class Router:
    """The gateway's view of a routing table: read again when its file changes, the last good one kept otherwise.

    A table that is wrong is looked at again when it changes, one that cannot be read now at the next look.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._file = FollowedFile(path)
        self._clock = clock
        self._problem: str | None = None
        # Table and lease change together, on whatever thread looks.
        self._seen: tuple[RoutingTable | None, Lease] = (None, Lease())
        self._looked_s = clock.monotonic()
        self.refresh()

    def choose(self, sticky_key: str) -> Choice:
        """Return the release for one upload, by the last look at the file.

        Raises:
            ModelNotReady: if no table has been read yet.
        """
        table, lease = self._seen
        if table is None:
            raise ModelNotReady(f"{self._file.path}: no routing table yet; release a bundle first")
        is_live = lease.is_live(table.lease_s, self._clock.monotonic())
        return choose(table, sticky_key, is_lease_live=is_live)

    @property
    def table(self) -> RoutingTable | None:
        """The table in force."""
        return self._seen[0]

    @property
    def is_lease_live(self) -> bool:
        """Whether a candidate of the table in force may get traffic now."""
        table, lease = self._seen
        return table is not None and lease.is_live(table.lease_s, self._clock.monotonic())

    def refresh(self) -> None:
        """Look at the file, which waits for its disk: call it on a timer, off the event loop, one call at a time.

        A renewal is counted from the last look that read the file and did not see it: however late a look comes, no
        candidate keeps its weight for longer than its lease.
        """
        now_s = self._clock.monotonic()
        try:
            raw = self._file.read()
            table = None if raw is None else _parse(raw, self._file.path)
        except FileNotFoundError:
            return
        except (OSError, PermanentError) as error:
            self._refuse(str(error))
            return
        since_s, self._looked_s = self._looked_s, now_s
        if table is None:
            return
        lease = self._seen[1].observe(table.renewal, since_s)
        self._seen, self._problem = (table, lease), None
        _LOG.info("routing table applied", extra={"revision": table.revision})

    def _refuse(self, problem: str) -> None:
        """Count and tell a problem once: a table that cannot be read is looked at again and again."""
        if problem != self._problem:
            self._problem = problem
            REFUSED.inc()
            _LOG.error("routing table refused", extra={"reason": problem})
