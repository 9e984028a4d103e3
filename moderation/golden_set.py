"""Golden sets: curated, versioned, frozen listings that candidates are judged on and that nothing is ever trained on.

Versions lie in `<root>/<version>/` in the Snapshot schema (role `golden`), beside `golden.json`, which names the links
of the groups that were drawn, and the marks of their texts. What was altered is refused. Two logs lie beside them:
who looked at which version, and what snapshots ever fitted on.
"""

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from moderation import bundle_files as files
from moderation.errors import GateRejected, InvalidSnapshot
from moderation.snapshot import Snapshot
from moderation.text_copies import TextMarks

FORMAT: Final = "tidegate.golden/1"
ROLE: Final = "golden"
FITTED_ROLES: Final = ("train", "tune", "meta", "solve")

_MANIFEST: Final = "golden.json"
_LOOKS: Final = "looks.jsonl"
_FITTED: Final = "fitted.jsonl"
_REMEDY: Final = "put back the files as they were built; a golden set is never edited, only rotated"

Links = tuple[tuple[tuple[str, str], ...], ...]


@dataclass(frozen=True)
class GoldenFacts:
    """What is said of a golden set beside its rows."""

    version: int
    as_of: datetime
    key: str
    """Key of the hash that groups were drawn by."""

    counts: Mapping[str, int]
    """`items`, `groups`, `adjudicated`, `<policy>_violations`, `<policy>_hard_negatives`, `excluded_<why>`, ..."""

    links: Links
    """What ties the rows of the groups that were drawn to others: per distinct row its seller first."""


@dataclass(frozen=True)
class GoldenSet:
    """One version of the golden set, verified when it is opened."""

    folder: Path
    digest: str
    """SHA-256 of everything in `golden.json`, the digests of rows and marks among it."""

    facts: GoldenFacts
    table: Snapshot
    """Readable as every snapshot; every row has the role `golden`."""

    texts: TextMarks

    @property
    def version(self) -> int:
        """Number of the version, from 1."""
        return self.facts.version

    @property
    def as_of(self) -> datetime:
        """Until when truth was known that went into it."""
        return self.facts.as_of

    @property
    def counts(self) -> Mapping[str, int]:
        """How many items of which kind there are, and how many rows were kept out."""
        return self.facts.counts

    @property
    def sellers(self) -> frozenset[str]:
        """Sellers of the whole groups that were drawn, also those without an item."""
        pairs = (pair for links in self.facts.links for pair in links)
        return frozenset(value for kind, value in pairs if kind == "seller")

    @classmethod
    def open(cls, folder: Path) -> "GoldenSet":
        """Return the golden set in `folder`.

        Raises:
            InvalidSnapshot: if the folder holds none, or its content is not what its digest says.
        """
        try:
            content = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            digest = content.pop("digest")
            facts = _facts_of(content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidSnapshot(
                f"{folder} holds no readable golden set: {error!r}; {_REMEDY}"
            ) from error
        table, texts = Snapshot.open(folder), TextMarks.load(folder)
        told = {
            _MANIFEST: (digest, files.digest_of(content)),
            "the version": (folder.name, str(facts.version)),
            "snapshot.json": (content["rows"], table.digest),
            "the policies": (content["policies"], list(table.policy_ids)),
            "rows.parquet": (content["rows"], _content_digest(table)),
            "texts.npz": (content["texts"], texts.digest),
        }
        for name, (said, found) in told.items():
            if said != found:
                raise InvalidSnapshot(
                    f"golden set {folder}: {name} was altered: {said}, but found {found}; {_REMEDY}"
                )
        return cls(folder, digest, facts, table, texts)


def seal(folder: Path, facts: GoldenFacts, table: Snapshot, texts: TextMarks) -> None:
    """Write the manifest and the marks beside the rows in `folder`, so that it opens as a golden set."""
    texts.save(folder)
    content = {
        "format": FORMAT,
        "version": facts.version,
        "as_of": facts.as_of.astimezone(UTC).isoformat(),
        "key": facts.key,
        "policies": list(table.policy_ids),
        "counts": dict(facts.counts),
        "links": facts.links,
        "rows": table.digest,
        "texts": texts.digest,
    }
    content["digest"] = files.digest_of(content)
    (folder / _MANIFEST).write_text(json.dumps(content, indent=1), encoding="utf-8")


def _facts_of(content: dict[str, Any]) -> GoldenFacts:
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']} is not {FORMAT}")
    return GoldenFacts(
        version=int(content["version"]),
        as_of=datetime.fromisoformat(content["as_of"]),
        key=str(content["key"]),
        counts=dict(content["counts"]),
        links=tuple(tuple((kind, value) for kind, value in one) for one in content["links"]),
    )


def _content_digest(table: Snapshot) -> str:
    try:
        return table.content_digest()
    except (OSError, ValueError, KeyError) as error:
        raise InvalidSnapshot(
            f"{table.folder}: rows.parquet is damaged: {error!r}; {_REMEDY}"
        ) from error


def golden_versions(root: Path) -> list[GoldenSet]:
    """Return every version below `root`, oldest first; empty where no golden set was built.

    Raises:
        InvalidSnapshot: if one was altered or is gone: its rows could be trained on unnoticed.
    """
    numbers = sorted(int(path.name) for path in root.glob("[0-9]*") if path.name.isdigit())
    if numbers != list(range(1, len(numbers) + 1)):
        raise InvalidSnapshot(f"{root} has golden sets {numbers}: versions are missing; {_REMEDY}")
    return [GoldenSet.open(root / str(number)) for number in numbers]


def latest_golden(root: Path) -> GoldenSet | None:
    """Return the newest version below `root`; None where no golden set was built.

    Raises:
        InvalidSnapshot: if it was altered.
    """
    numbers = [int(path.name) for path in root.glob("[0-9]*") if path.name.isdigit()]
    return GoldenSet.open(root / str(max(numbers))) if numbers else None


@dataclass(frozen=True)
class Look:
    """One time that one bundle was judged on one version, under one seed."""

    version: int
    golden: str
    """Digest of the set."""

    bundle: str
    seed: int
    """Of the proof: it draws the attacked listings and the resamples, so that another one is another try."""

    by: str
    at: datetime

    @property
    def counted_as(self) -> tuple[str, int]:
        """What makes it the same look again."""
        return self.bundle, self.seed


def record_look(
    golden: GoldenSet, *, bundle: str, seed: int, by: str, at: datetime, max_looks: int
) -> int:
    """Return how many looks were taken at this version, this one included; logged before anything is looked at.

    The same bundle under the same seed gives the same figures: that is logged, and does not count twice. Under another
    seed it counts: whoever tries seeds until one passes has chosen by chance.

    Raises:
        GateRejected: if `max_looks` others were taken at this version.
    """
    look = Look(golden.version, golden.digest, bundle, seed, by, at.astimezone(UTC))
    with _locked(golden.folder.parent / _LOOKS) as log:
        known = {one.counted_as for one in _read_looks(log) if one.version == golden.version}
        if len(known | {look.counted_as}) > max_looks:
            raise GateRejected(
                f"{len(known)} of {max_looks} looks at golden set {golden.version} are used: judged more often, a set "
                "chooses its winner by chance; rotate it with `tidegate golden rotate`"
            )
        _append(log, vars(look) | {"at": look.at.isoformat()})
    return len(known | {look.counted_as})


def looks(root: Path) -> list[Look]:
    """Return every look at any version, oldest first.

    Raises:
        InvalidSnapshot: if the log is damaged: then nobody knows how often was looked.
    """
    return _read_looks(root / _LOOKS)


def record_fitted(root: Path, snapshot: Snapshot) -> int:
    """Return how many submissions the snapshot fits on that no earlier one did, all of them kept in the log."""
    ids, role_N = snapshot.column("submission_id").tolist(), snapshot.role.tolist()
    fitted = {one for one, role in zip(ids, role_N, strict=True) if role in FITTED_ROLES}
    with _locked(root / _FITTED) as log:
        new = sorted(fitted - _read_fitted(log))
        if new:
            _append(log, {"snapshot": snapshot.digest, "submissions": new})
    return len(new)


def fitted(root: Path) -> frozenset[str]:
    """Return every submission that any snapshot of this home gave a role to fit on.

    Raises:
        InvalidSnapshot: if the log is damaged.
    """
    return _read_fitted(root / _FITTED)


def _read_looks(log: Path) -> list[Look]:
    try:
        return [Look(**(line | {"at": datetime.fromisoformat(line["at"])})) for line in _lines(log)]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidSnapshot(f"{log} is damaged: {error!r}; restore it from a backup") from error


def _read_fitted(log: Path) -> frozenset[str]:
    try:
        return frozenset(one for line in _lines(log) for one in line["submissions"])
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidSnapshot(f"{log} is damaged: {error!r}; restore it from a backup") from error


def _lines(log: Path) -> Sequence[dict[str, Any]]:
    if not log.exists():
        return []
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def _append(log: Path, line: Mapping[str, Any]) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


@contextmanager
def _locked(log: Path) -> Iterator[Path]:
    """Hold a log for reading and appending: two runs at once must not both take the last look."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield log
