"""Which version of the banks is active, and which entries are switched on or off: a home that changes atomically.

    versions/<digest>/   immutable, written by a build
    switches/<number>    every set of switches that ever held, each whole, none ever written over
    ACTIVE               one small file that names a version and a set of switches; replaced, never edited

A reader sees the state before a change or after it, never one in between. Writers wait for each other. Where ACTIVE is
gone or damaged, activating a version brings it back with the newest switches: what was switched off stays off.
"""

import fcntl
import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from moderation.bank_index import (
    BankIndex,
    Manifest,
    build_version,
    open_version,
    sweep,
    verify_version,
)
from moderation.clock import Clock
from moderation.errors import BankRejected
from moderation.files import create_file, reason_of, replace_file
from moderation.listing import Digest

_LOG: Final = logging.getLogger(__name__)

_ACTIVE: Final = "ACTIVE"
_VERSIONS: Final = "versions"
_SWITCHES: Final = "switches"
_SHOWN: Final = 12
_KEPT: Final = 32
"""Versions that can be rolled back to, one after the other."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Switch(_Record):
    """One entry switched on or off by hand, whatever its version says."""

    is_enabled: bool
    reason: Annotated[str, Field(min_length=8)]
    by: Annotated[str, Field(min_length=2)]
    at: AwareDatetime


class Switches(_Record):
    """All switches that hold at a time, by entry id. Meant for some thousands: more belong into a new version."""

    number: Annotated[int, Field(ge=0)] = 0
    entries: dict[str, Switch] = Field(default_factory=dict)


class Active(_Record):
    """What is active."""

    version: Digest
    before: Annotated[tuple[Digest, ...], Field(max_length=_KEPT)] = ()
    """Versions to roll back to, the newest last."""

    switches: Annotated[int, Field(ge=0)] = 0
    switches_digest: str = ""
    """SHA-256 of the file of switches; empty where nothing was ever switched."""


class BankVersions:
    """The banks of one home. Every change is one replaced file; what is open stays valid."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self._root, self._clock = root, clock

    @property
    def active_file(self) -> Path:
        """The file that changes whenever anything does."""
        return self._root / _ACTIVE

    def build(self, source: Path, policies: Collection[str]) -> str:
        """Write the version of an entries file and return its name; it is not active yet.

        Raises:
            BankRejected: naming the wrong rows; nothing was changed.
        """
        with self._lock("build"):
            sweep(self._root / _VERSIONS)
            return build_version(source, self._root / _VERSIONS, policies)

    def activate(self, version: str) -> Active:
        """Verify a version byte by byte, make it the active one, and return the new state.

        Where what was active is not known any more, the newest switches there are hold on; see `is_known`.

        Raises:
            BankRejected: if the version is absent or damaged, or so are the switches to be taken over; nothing changes.
        """
        verify_version(self._folder(version))
        with self._lock("state"):
            now = self.active() if self.is_known() else None
            if now is None:
                state = self._with_newest_switches(version)
            elif now.version == version:
                state = now
            else:
                before = (*now.before, now.version)[-_KEPT:]
                state = now.model_copy(update={"version": version, "before": before})
            return self._save(state)

    def roll_back(self) -> Active:
        """Make the version before the active one active again, and return the new state; switches stay as they are.

        Raises:
            BankRejected: if there is none, or it is damaged; the active one stays.
        """
        with self._lock("state"):
            now = self.active()
            if now is None or not now.before:
                raise BankRejected(
                    f"{self._root}: there is no version to roll back to; activate one that was built"
                )
            verify_version(self._folder(now.before[-1]))
            update = {"version": now.before[-1], "before": now.before[:-1]}
            return self._save(now.model_copy(update=update))

    def switch(self, entry_ids: Sequence[str], *, is_enabled: bool, reason: str, by: str) -> Active:
        """Switch entries of the active version on or off at once, without a build, and return the new state.

        Args:
            entry_ids: entries of the active version.
            is_enabled: whether they match from now on.
            reason: why; at least eight characters.
            by: who says so.

        Raises:
            BankRejected: if nothing is active, or an entry is unknown; nothing was changed.
            ValidationError: if the reason or the name is too short.
        """
        one = Switch(is_enabled=is_enabled, reason=reason, by=by, at=self._clock.now())
        with self._lock("state"):
            now = self.active()
            if now is None:
                raise BankRejected(f"{self._root}: no version is active; build and activate one")
            rows = self.open(now)[0].rows_of(entry_ids)
            unknown = [name for name, row in zip(entry_ids, rows.tolist(), strict=True) if row < 0]
            if unknown:
                raise BankRejected(
                    f"{self._root}: the active version has no entry {unknown[:5]}; correct the ids"
                )
            held = self.switches(now)
            # Not the number after the one held: an older state may have been put back, or a writer ended in between.
            number = max(held.number, *self._switch_numbers(), 0) + 1
            made = Switches(number=number, entries=held.entries | dict.fromkeys(entry_ids, one))
            content = _json(made)
            if not create_file(self._switch_file(number), content, mode=0o644):
                raise BankRejected(
                    f"{self._switch_file(number)}: somebody wrote it meanwhile; switch again"
                )
            update = {"switches": made.number, "switches_digest": _digest(content)}
            return self._save(now.model_copy(update=update))

    def versions(self) -> tuple[str, ...]:
        """Return the names of all versions that were built, damaged ones too, the oldest first."""
        found = self._root.joinpath(_VERSIONS).glob("[!.]*")
        return tuple(path.name for path in sorted(found, key=lambda path: path.stat().st_mtime_ns))

    def named(self, beginning: str) -> str:
        """Return the one version whose name begins so.

        Raises:
            BankRejected: if there is none, or several.
        """
        found = [name for name in self.versions() if beginning and name.startswith(beginning)]
        if len(found) != 1:
            known = ", ".join(name[:_SHOWN] for name in self.versions()) or "none was built"
            many = "several versions begin" if found else "no version begins"
            raise BankRejected(f"{many} with {beginning!r}; there are: {known}")
        return found[0]

    def verify(self, version: str) -> Manifest:
        """Return what a version holds, of which every byte was read.

        Raises:
            BankRejected: if it is absent or damaged.
        """
        return verify_version(self._folder(version))

    def active(self) -> Active | None:
        """Return what is active, None where nothing was ever activated.

        Raises:
            BankRejected: if the file that says so is damaged.
        """
        try:
            return Active.model_validate_json(self.active_file.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BankRejected(
                f"{self.active_file}: cannot be read ({reason_of(error)}); make it a readable file"
            ) from error
        except ValidationError as error:
            raise _Damaged(
                f"{self.active_file}: is damaged; activate a version again,"
                " which takes over the newest switches"
            ) from error

    def is_known(self) -> bool:
        """Return whether the file that says what is active is there and whole.

        Raises:
            BankRejected: if it cannot be read now.
        """
        try:
            return self.active() is not None
        except _Damaged:
            return False

    def open(self, state: Active) -> tuple[BankIndex, Switches]:
        """Return the version and the switches of a state.

        Raises:
            BankRejected: if either is absent or damaged.
        """
        return open_version(self._folder(state.version)), self.switches(state)

    def switches(self, state: Active) -> Switches:
        """Return the switches of a state.

        Raises:
            BankRejected: if their file is absent or was altered.
        """
        if not state.switches:
            return Switches()
        path = self._switch_file(state.switches)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BankRejected(f"{path}: cannot be read: {error}; bring the file back") from error
        if _digest(content) != state.switches_digest:
            raise BankRejected(f"{path}: was altered; bring back the file as it was written")
        return Switches.model_validate_json(content)

    def _with_newest_switches(self, version: str) -> Active:
        """Return the state of a version where nothing says what held before; an entry switched off stays off."""
        number = max(self._switch_numbers(), default=0)
        if not number:
            return Active(version=version)
        path = self._switch_file(number)
        try:
            content = path.read_bytes()
            held = Switches.model_validate_json(content)
        except (OSError, ValidationError) as error:
            raise BankRejected(
                f"{path}: the newest switches cannot be taken over: they cannot be read; bring the file back,"
                " or move it away to take over those before it"
            ) from error
        _LOG.warning(
            "no known state of the banks: the newest switches were taken over",
            extra={"number": number, "num_entries": len(held.entries)},
        )
        return Active(version=version, switches=number, switches_digest=_digest(content))

    def _switch_numbers(self) -> list[int]:
        found = self._root.joinpath(_SWITCHES).glob("[0-9]*.json")
        return [int(path.stem) for path in found if path.stem.isdecimal()]

    def _save(self, state: Active) -> Active:
        replace_file(self.active_file, _json(state))
        return state

    def _folder(self, version: str) -> Path:
        folder = self._root / _VERSIONS / version
        if folder.parent.name != _VERSIONS or not version or version.startswith("."):
            raise BankRejected(f"{version!r} is not the name of a version; give its digest")
        return folder

    def _switch_file(self, number: int) -> Path:
        return self._root / _SWITCHES / f"{number:08d}.json"

    @contextmanager
    def _lock(self, what: str) -> Iterator[None]:
        self._root.mkdir(parents=True, exist_ok=True)
        with (self._root / f".{what}.lock").open("a") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield


class _Damaged(BankRejected):
    """What is active is not known any more."""


def _json(record: BaseModel) -> bytes:
    content: Any = record.model_dump(mode="json")
    return json.dumps(content, sort_keys=True, indent=1).encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
