"""Banks of known images: what a look-up says of one image, and the reader that follows the active version.

A match bank holds known-bad images, a negative bank known-good ones. For every policy the nearer of the two speaks, but
a known-good image silences a known-bad one only when it is nearer by more than `TIE_MARGIN` bits: within it the
difference is what re-encoding one and the same image does to its hash, and then the known-bad one stands.
"""

import logging
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from moderation.bank_entries import ANY_POLICY
from moderation.bank_index import BankIndex
from moderation.bank_versions import BankVersions
from moderation.clock import Clock
from moderation.errors import BankRejected
from moderation.files import FollowedFile

_LOG: Final = logging.getLogger(__name__)

TIE_MARGIN: Final = 10
"""Bits by which two hashes of one image differ between PDQ's own implementations at quality 80 and above, which is what
its tests allow them (github.com/facebook/ThreatExchange, pdq)."""


@dataclass(frozen=True)
class BankMatch:
    """An enabled entry within the radius of an image."""

    entry_id: str
    bank: str
    kind: Literal["match", "negative"]
    policy: str
    distance: int


@dataclass(frozen=True)
class BankSignal:
    """What the banks say of one image. Where the status is not ok they say nothing, which is not "no match"."""

    status: Literal["ok", "missing", "error"]
    reason: str
    """Why the status is not ok: `low_quality`, `no_active_version`, or what is damaged."""

    matches: tuple[BankMatch, ...]
    """All of them, nearest first; evidence for reviewers, never shown to a seller."""

    known_bad: tuple[str, ...] | None
    """Policies under which the image is known bad; None unless the status is ok."""

    known_good: tuple[str, ...] | None
    """Policies under which it is known good, `*` for all; None unless the status is ok."""

    is_contested: bool
    """Whether a policy has known-bad and known-good matches, however the nearer one was chosen."""

    version: str | None
    """Digest of the version and number of the switches that were asked: `<digest>+<number>`."""

    latency_ms: float


@dataclass(frozen=True)
class _Opened:
    """A version with the switches that hold, and the state of the file that named them."""

    index: BankIndex
    number: int
    switched: dict[int, bool]
    """By row; the others are as their version says."""

    @property
    def version(self) -> str:
        return f"{self.index.version}+{self.number}"

    def is_enabled(self, row: int) -> bool:
        return self.switched.get(row, bool(self.index.is_enabled_N[row]))

    def matches(self, hash_4: npt.NDArray[np.uint64]) -> tuple[BankMatch, ...]:
        index, facts = self.index, self.index.manifest
        rows, distances = index.index.search(hash_4)
        return tuple(
            BankMatch(
                entry_id=index.ids_N[row].decode(),
                bank=facts.banks[index.bank_N[row]].name,
                kind=index.kind_of(row),
                policy=facts.policies[index.policy_N[row]],
                distance=distance,
            )
            for row, distance in zip(rows.tolist(), distances.tolist(), strict=True)
            if self.is_enabled(row)
        )


class Banks:
    """Looks images up in the active version. `refresh` follows it and may run in another thread than the look-ups."""

    def __init__(self, versions: BankVersions, clock: Clock) -> None:
        self._versions, self._clock = versions, clock
        self._file = FollowedFile(versions.active_file)
        self._opened: _Opened | None = None
        self.problem: str | None = None
        """What is wrong with the active version; while it is, look-ups go on with the one that was open before, unless
        that one was cut: then they are errors."""

        self.num_refused = 0
        """Refreshes that met a damaged version or file."""

    @property
    def version(self) -> str | None:
        """What look-ups are asked of, None where nothing is open."""
        opened = self._opened
        return None if opened is None else opened.version

    def refresh(self) -> bool:
        """Open what is active if it changed, and return whether another version or set of switches is now asked.

        Time: one `stat` of a file when nothing changed, and one of each file of a version that is mapped. A version
        that is damaged or cannot be read is refused, told in `problem`, counted and tried again at the next call.
        """
        try:
            return self._refresh()
        except BankRejected as error:
            self.num_refused += 1
            if str(error) != self.problem:
                _LOG.error("bank version refused", extra={"problem": str(error)})
            self.problem = str(error)
            return False

    def _close_if_cut(self) -> None:
        opened = self._opened
        cut = None if opened is None else opened.index.cut_file()
        if cut is None:
            return
        # Before anything is asked of it: reading its pages ends the process.
        self._opened = None
        self._file = FollowedFile(self._versions.active_file)
        self.problem = f"{cut}: was cut while it was open; build the version again"
        _LOG.error("open bank version closed", extra={"problem": self.problem})

    def _refresh(self) -> bool:
        self._close_if_cut()
        try:
            facts = self._file.change()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise BankRejected(f"{self._file.path}: cannot be looked at: {error}") from error
        if facts is None:
            return False
        state = self._versions.active()
        if state is None:
            return False
        index, switches = self._versions.open(state)
        rows = index.rows_of(list(switches.entries)).tolist() if switches.entries else []
        held = [one.is_enabled for one in switches.entries.values()]
        switched = {row: on for row, on in zip(rows, held, strict=True) if row >= 0}
        before = self.version
        self._opened = _Opened(index, switches.number, switched)
        self._file.settle(facts)
        self.problem = None
        return self.version != before

    def lookup(self, hash_4: npt.NDArray[np.uint64], quality: int) -> BankSignal:
        """Return what the banks say of an image.

        Time: see `HashIndex.search`; nothing is read from disk but pages of the index that are not in memory yet.

        Args:
            hash_4: the PDQ hash, four words.
            quality: its quality, 0 to 100; below the version's floor the hash says nothing, and the signal is missing.

        Raises:
            ValueError: if the hash has another type or shape.
        """
        if hash_4.shape != (4,) or hash_4.dtype != np.uint64:
            raise ValueError(f"a hash is four words of 64 bits, not {hash_4.dtype} {hash_4.shape}")
        started, opened = self._clock.monotonic(), self._opened
        if opened is None:
            if self.problem is not None:
                return self._nothing("error", self.problem, started)
            return self._nothing("missing", "no_active_version", started)
        if quality < opened.index.manifest.min_quality:
            return self._nothing("missing", "low_quality", started, opened.version)
        try:
            matches = opened.matches(hash_4)
        except (
            IndexError,
            ValueError,
        ) as error:  # rows that the version does not have, stretches below zero
            _LOG.error("bank lookup failed", extra={"version": opened.version})
            reason = f"the index is damaged: {error}; verify the version and activate another"
            return self._nothing("error", reason, started, opened.version)
        known_bad, known_good, is_contested = _resolve(matches)
        return BankSignal(
            status="ok",
            reason="",
            matches=matches,
            known_bad=known_bad,
            known_good=known_good,
            is_contested=is_contested,
            version=opened.version,
            latency_ms=self._since(started),
        )

    def _nothing(
        self,
        status: Literal["missing", "error"],
        reason: str,
        started: float,
        version: str | None = None,
    ) -> BankSignal:
        return BankSignal(
            status, reason, (), None, None, False, version, latency_ms=self._since(started)
        )

    def _since(self, started: float) -> float:
        return (self._clock.monotonic() - started) * 1_000


def _resolve(matches: tuple[BankMatch, ...]) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """Return the policies under which an image is known bad, those where it is known good, and if any is contested."""
    nearest: dict[tuple[str, str], int] = {}
    for match in matches:
        nearest.setdefault((match.kind, match.policy), match.distance)
    bad = {policy: apart for (kind, policy), apart in nearest.items() if kind == "match"}
    good = {policy: apart for (kind, policy), apart in nearest.items() if kind == "negative"}
    rivals = {
        policy: min(good[name] for name in (policy, ANY_POLICY) if name in good)
        for policy in bad
        if policy in good or ANY_POLICY in good
    }
    stands = {
        policy
        for policy, apart in bad.items()
        if policy not in rivals or apart - rivals[policy] <= TIE_MARGIN
    }
    # What is bad under one policy is not good under all of them.
    known_good = {policy for policy in good if policy not in stands}
    if stands:
        known_good.discard(ANY_POLICY)
    return tuple(sorted(stands)), tuple(sorted(known_good)), bool(rivals)
