"""Statements about a bundle: verdicts of gates, metrics, the sets they were taken on. Appended, never changed.

They lie in `attestations/` beside the bundle's files and outside its digest. Each is bound to one bundle by digest and
carries the SHA-256 of its own content, so that none can be edited or carried over to another bundle unnoticed.
"""

import os
import tempfile
from datetime import UTC
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from moderation import bundle_files as files
from moderation.bundle import ATTESTATIONS, Bundle
from moderation.clock import Clock
from moderation.engines.engine import REFERENCE, EngineFacts
from moderation.errors import BundleRejected, GateRejected, PermanentError
from moderation.release import STANDARD

FORMAT: Final = "tidegate.attestation/1"
_MAX_BYTES: Final = 4 * 2**20
_UNFINISHED: Final = ".writing-"
_REMEDY: Final = "evaluate the bundle again; an attestation is never edited or copied"
GATES: Final = "gates"
"""Kind of a statement that decides about a release."""

PARITY: Final = "parity"
"""Kind of a statement that lets an engine answer in the place of the reference one."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
TierName = Literal["tag", "review", "block", "suspend"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Verdict(_Frozen):
    """What one gate said."""

    gate: str
    verdict: Literal["pass", "fail", "inconclusive", "no_data", "not_certified"]
    reason: str
    blocking: bool = True
    """Whether anything but `pass` keeps the bundle from being released."""

    @property
    def blocks(self) -> bool:
        """Whether this verdict keeps the bundle back."""
        return self.blocking and self.verdict != "pass"


class Statement(_Frozen):
    """What is attested; the bundle and the time are added when it is appended."""

    kind: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    """What was done: `evaluation`, `gates`, ..."""

    contract: Sha256
    """Digest of the contract that says which gates there are, with their limits."""

    sets: dict[str, Sha256]
    """Name -> digest of each set that was looked at."""

    verdicts: tuple[Verdict, ...] = ()
    metrics: dict[str, Finite | None] = Field(default_factory=dict)
    """None where a metric could not be taken; JSON has no NaN."""

    notes: tuple[str, ...] = ()
    """What a reader must know: no champion to compare with, what is not certified, ..."""

    champion: Sha256 | None = None
    """Digest of the bundle that it was compared with; None: with none."""

    profile: str = ""
    """Profile of the contract that was judged under; empty where nothing was judged."""

    engine: EngineFacts | None = None
    """What was compared with the reference engine; None where no engine was."""

    caps: dict[str, TierName] = Field(default_factory=dict)
    """Policy -> weakest tier that stays closed, and every stronger one, because it is not certified."""


class Attestation(Statement):
    """A statement about one bundle at one time."""

    format: Literal["tidegate.attestation/1"] = FORMAT
    bundle: Sha256
    created_at: AwareDatetime
    tool: str
    """Program and version that made the statement."""

    @property
    def is_passing(self) -> bool:
        """Whether a gate passed and none blocks; where nothing is shown, nothing is passed."""
        passed = any(verdict.verdict == "pass" for verdict in self.verdicts)
        return passed and not any(verdict.blocks for verdict in self.verdicts)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of the content."""
        return files.digest_of(self.model_dump(mode="json"))


def append(
    bundle: Bundle, statement: Statement, *, clock: Clock, tool: str, folder: Path | None = None
) -> Attestation:
    """Return the attestation of `statement` about `bundle`, written as a file of its own.

    Args:
        bundle: what it is about.
        statement: what is said.
        clock: gives the time of the statement.
        tool: program and version that says it.
        folder: where attestations are kept; None means beside the bundle's files.

    Raises:
        BundleRejected: if an earlier attestation there is damaged: a history with holes proves nothing.
        PermanentError: if the clock stands before an attestation that is there already, or the folder cannot be
            written: name another `folder`, as for a bundle on a read-only volume.
    """
    target = folder or bundle.folder / ATTESTATIONS
    history = read(bundle, folder=target)
    attestation = Attestation(
        **dict(statement), bundle=bundle.digest, created_at=clock.now(), tool=tool
    )
    if history and history[-1].created_at > attestation.created_at:
        raise PermanentError(
            f"the clock says {attestation.created_at}, but an attestation of {history[-1].created_at} is there: "
            "set the clock"
        )
    _write(target, attestation)
    return attestation


def read(bundle: Bundle, *, folder: Path | None = None) -> list[Attestation]:
    """Return every attestation about `bundle`, oldest first.

    Raises:
        BundleRejected: naming the file that is altered, foreign, or about another bundle.
    """
    target = folder or bundle.folder / ATTESTATIONS
    if not target.is_dir():
        return []
    unfinished = frozenset(path.name for path in target.glob(f"{_UNFINISHED}*"))
    listed = files.list_files(target, skip=unfinished)
    found = {name: _parse(path, name, bundle) for name, path in listed.items()}
    return [found[name] for name in sorted(found, key=lambda name: (found[name].created_at, name))]


def latest_passing(
    bundle: Bundle, *, contract: str | None = None, folder: Path | None = None
) -> Attestation | None:
    """Return the newest verdicts of the gates if they pass; None if they do not, or there are none.

    The newest decides: a bundle that passed once and failed since is not passing.

    Args:
        bundle: the bundle in question.
        contract: only statements under the contract of this digest count; None takes all.
        folder: where attestations are kept; None means beside the bundle's files.

    Raises:
        BundleRejected: as `read`.
    """
    judged = [
        said
        for said in read(bundle, folder=folder)
        if said.kind == GATES and said.verdicts and contract in (None, said.contract)
    ]
    return judged[-1] if judged and judged[-1].is_passing else None


def require_passing(
    bundle: Bundle,
    contract: str,
    *,
    accepts: str = STANDARD,
    or_another: bool = False,
    folder: Path | None = None,
) -> Attestation:
    """Return the newest statement of the gates about `bundle` that counts, which passes: what a release stands on.

    What blocks counts under any profile; what passes only under one that is accepted. A comparison with a champion that
    was lost is undone by another comparison alone: a later statement without a champion does not ask what was lost.

    Args:
        bundle: the bundle in question.
        contract: digest of the release contract in force; what passed under another one is not shown to pass this.
        accepts: weakest profile whose pass counts; that of the standard one always does.
        or_another: where nothing was ever stated under the contract in force, ask under that of the newest statement:
            for what was released under it and starts again.
        folder: where attestations are kept; None means beside the bundle's files.

    Raises:
        GateRejected: if there is none, or it does not pass; the message names the gates and the remedy.
        BundleRejected: as `read`.
    """
    short, remedy = bundle.digest[:12], f"run `tidegate gates run --bundle {bundle.folder}`"
    judged = [said for said in read(bundle, folder=folder) if said.kind == GATES and said.verdicts]
    if not judged:
        raise GateRejected(f"bundle {short} was never judged by the gates; {remedy}")
    newest = judged[-1].contract
    under = [said for said in judged if said.contract == contract]
    if not under and not or_another:
        raise GateRejected(
            f"bundle {short} was judged under the contract {newest[:12]}, not under the one in force, "
            f"{contract[:12]}; {remedy}"
        )
    under = under or [said for said in judged if said.contract == newest]
    counted = [said for said in under if said.profile in (STANDARD, accepts)]
    for said in _deciding(under, counted):
        if not said.is_passing:
            why = f"`tidegate gates show {bundle.folder}` says why"  # of the newest alone
            if said != judged[-1]:
                why = f"{ATTESTATIONS}/ beside the bundle says why"
            raise GateRejected(
                f"bundle {short} {_blocked(said)}; {why}; train a better one, or {remedy}{_not_by(said)}"
            )
    if not counted:
        weak = under[-1].profile
        raise GateRejected(
            f"bundle {short} passed only under the profile {weak!r}, which does not count in this home; {remedy} "
            f"--profile {accepts}, or accept it with TIDEGATE__RELEASE_PROFILE={weak}"
        )
    return counted[-1]


def _deciding(*groups: list[Attestation]) -> list[Attestation]:
    """Return what must pass: the newest of each group, and the newest of it that compared with a champion."""
    compared = [[said for said in group if said.champion is not None] for group in groups]
    return [group[-1] for group in (*groups, *compared) if group]


def _blocked(said: Attestation) -> str:
    blocking = ", ".join(verdict.gate for verdict in said.verdicts if verdict.blocks)
    beside = f" beside the champion {said.champion[:12]}" if said.champion else ""
    return f"was blocked on {said.created_at:%Y-%m-%d %H:%M} UTC{beside} by {blocking}"


def _not_by(said: Attestation) -> str:
    return "; `--champion none` does not undo it" if said.champion else ""


def require_parity(
    bundle: Bundle, facts: EngineFacts, contract: str, *, folder: Path | None = None
) -> Attestation:
    """Return the newest comparison of an engine with the reference one, which passes: what lets the engine answer.

    Args:
        bundle: the bundle in question.
        facts: the engine as it would run here; a comparison of other graphs, of another version or on another kind of
            machine does not count.
        contract: digest of the release contract in force.
        folder: where attestations are kept; None means beside the bundle's files.

    Raises:
        GateRejected: if there is none, or it does not pass; the message says why, and what to run.
        BundleRejected: as `read`.
    """
    who = f"engine {facts.name} may not answer for bundle {bundle.digest[:12]}"
    remedy = f"run `tidegate bundle parity {bundle.folder} --engine {facts.name}` here, or use engine {REFERENCE}"
    compared = [
        (said, said.engine)
        for said in read(bundle, folder=folder)
        if said.kind == PARITY and said.engine is not None and said.engine.name == facts.name
    ]
    if not compared:
        raise GateRejected(f"{who}: it was never compared with {REFERENCE}; {remedy}")
    counted = [said for said, engine in compared if (engine, said.contract) == (facts, contract)]
    if not counted:
        newest, engine = compared[-1]
        held = engine.model_dump() | {"contract": newest.contract}
        wanted = facts.model_dump() | {"contract": contract}
        odd = [
            f"{key} {held[key]}, here {wanted[key]}" for key in wanted if held[key] != wanted[key]
        ]
        raise GateRejected(f"{who}: the comparison was under {'; '.join(odd)}; {remedy}")
    if not counted[-1].is_passing:
        wrong = [f"{one.gate} ({one.reason})" for one in counted[-1].verdicts if one.blocks]
        raise GateRejected(f"{who}: it was refused by {', '.join(wrong)}; {remedy}")
    return counted[-1]


def _write(folder: Path, attestation: Attestation) -> None:
    stamp = attestation.created_at.astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    content = {
        "attestation": attestation.model_dump(mode="json"),
        "sha256": attestation.digest,
    }
    name = f"{stamp}-{attestation.kind}-{attestation.digest[:12]}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, scratch = tempfile.mkstemp(prefix=_UNFINISHED, dir=folder)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(files.canonical_json(content) + b"\n")
        os.chmod(scratch, 0o644)
        try:
            os.link(scratch, folder / name)  # unlike a rename, it never replaces what is there
        finally:
            os.unlink(scratch)
    except FileExistsError:
        return  # the very same statement at the very same time
    except OSError as error:
        raise PermanentError(
            f"{folder}: cannot be written ({error.strerror}); name another folder for attestations"
        ) from error


def _parse(path: Path, name: str, bundle: Bundle) -> Attestation:
    shown = f"{ATTESTATIONS}/{name}"
    content: Any = files.read_json(path, shown, max_bytes=_MAX_BYTES)
    if not isinstance(content, dict) or set(content) != {"attestation", "sha256"}:
        files.reject(shown, "is not an attestation", _REMEDY)
    if files.digest_of(content["attestation"]) != content["sha256"]:
        files.reject(shown, "was altered: its SHA-256 is not that of its content", _REMEDY)
    try:
        said = Attestation.model_validate(content["attestation"])
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise BundleRejected(f"{shown}: {field}: {first['msg']}; {_REMEDY}") from error
    if said.bundle != bundle.digest:
        files.reject(shown, f"is about bundle {said.bundle[:12]}, not this one", _REMEDY)
    return said
