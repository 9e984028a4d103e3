"""The evidence about one candidate: frozen sets with what candidate and champion say of the same rows, in one run.

N rows of a set, P policies, R attacked rows. Gates read nothing else; saved as one folder, so that judging can be
repeated without scoring.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from moderation.errors import InvalidSnapshot
from moderation.leaks import Leak, LeakCheck

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int8]
Flags = npt.NDArray[np.bool_]
Words = npt.NDArray[np.str_]
Thresholds = Mapping[str, Mapping[str, float]]

FORMAT: Final = 4
_REMEDY: Final = "score the sets again"


@dataclass(frozen=True)
class Answers:
    """What one bundle says of the N rows of a set."""

    bundle: str
    """Digest."""

    probability_NP: Floats
    log_odds_NP: Floats
    thresholds: Thresholds
    """Policy -> tier -> smallest probability that opens it; a tier that is not there is closed."""

    lacks: tuple[str, ...] = ()
    """Policies of the set that the bundle has no head for: columns of NaN, which is not the NaN of a broken head."""

    lets_go_N: Flags | None = None
    """Rows that would pass by the seller's behaviour alone; None where the bundle lets nothing go."""


@dataclass(frozen=True)
class ScoredSet:
    """One frozen set, answered by the candidate and, where there is one, by the champion."""

    name: str
    digest: str
    """SHA-256 of what was frozen: ids, truth, weights; not of the answers."""

    policies: tuple[str, ...]
    item_id: Words
    seller_id: Words
    """Empty where unknown."""

    group: Integers
    """Seller and campaign: rows that are right or wrong together."""

    weight: Floats
    """Inverse inclusion probability: makes the set stand for deployed traffic."""

    truth_NP: Codes
    """1 violates, 0 does not, -1 unknown."""

    adjudicated_NP: Flags
    num_images: Integers
    candidate: Answers
    champion: Answers | None
    """For the set `replay`: what was recorded when it was decided."""

    slices: Mapping[str, Words] = field(default_factory=dict)
    """Slice name -> value of each row; the empty word where unknown."""

    def __post_init__(self) -> None:
        shape = (len(self.item_id), len(self.policies))
        for answers in (self.candidate, self.champion):
            if answers is None:
                continue
            for name in ("probability_NP", "log_odds_NP"):
                if getattr(answers, name).shape != shape:
                    raise InvalidSnapshot(f"set {self.name}: {name} is not of shape {shape}")
            self._check_heads(answers)
            if answers.lets_go_N is not None and answers.lets_go_N.shape != shape[:1]:
                raise InvalidSnapshot(f"set {self.name}: lets_go_N must have {shape[0]} rows")
        for name in ("truth_NP", "adjudicated_NP"):
            if getattr(self, name).shape != shape:
                raise InvalidSnapshot(f"set {self.name}: {name} is not of shape {shape}")
        columns = {n: getattr(self, n) for n in ("seller_id", "group", "weight", "num_images")}
        for name, values in (columns | dict(self.slices)).items():
            if len(values) != shape[0]:
                raise InvalidSnapshot(f"set {self.name}: {name} must have {shape[0]} rows")

    def _check_heads(self, answers: Answers) -> None:
        for policy in answers.lacks:
            if policy not in self.policies:
                raise InvalidSnapshot(
                    f"set {self.name}: a head lacks for {policy}, no policy of it"
                )
            if np.isfinite(answers.log_odds_NP[:, self.policies.index(policy)]).any():
                raise InvalidSnapshot(f"set {self.name}: {policy} is answered without a head")

    @property
    def num_rows(self) -> int:
        """N."""
        return len(self.item_id)


@dataclass(frozen=True)
class AttackOutcome:
    """One attack on R rows of the golden set: violations, and innocent twins under the very same change."""

    name: str
    family: str
    """`text`, `image`, `joint` or `white_box`."""

    severity: float
    """1 is what the gate judges; a white-box attack of unlimited strength has infinity."""

    row_R: Integers
    """Rows of the golden set."""

    candidate_RP: Floats
    """Probabilities after the attack."""

    champion_RP: Floats | None


@dataclass(frozen=True)
class Costs:
    """Latencies of single listings from raw bytes, candidate and champion in turn, and sizes on disk."""

    candidate_ms: Floats
    """Of every listing in each round, rounds x listings; one round may be flat."""

    candidate_bytes: int
    champion_ms: Floats | None
    champion_bytes: int | None


@dataclass(frozen=True)
class Evidence:
    """Everything that gates may read about one candidate; what is None or absent was not taken."""

    candidate: str
    champion: str | None
    policies: tuple[str, ...]
    sets: Mapping[str, ScoredSet] = field(default_factory=dict)
    """By name: `golden`, `traffic`, `fresh`, `replay`."""

    attacks: tuple[AttackOutcome, ...] = ()
    leaks: LeakCheck | None = None
    costs: Costs | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    """Lineage and settings for the evidence pack."""

    missing: Mapping[str, str] = field(default_factory=dict)
    """Set or part that could not be taken -> why, and what to do about it."""

    nothing_decided: bool = False
    """The ledger was read and holds no decision: nothing ever answered here, so that there is nothing to replay."""

    only_own_decisions: bool = False
    """All that a release decided in the window of the replay was decided by the candidate itself."""

    def save(self, folder: Path) -> None:
        """Write the evidence as `evidence.json` and one .npz file per set."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, one in self.sets.items():
            _save_set(one, folder / f"{name}.npz")
        arrays: dict[str, npt.NDArray[Any]] = {}
        for number, attack in enumerate(self.attacks):
            arrays[f"{number}.row_R"] = attack.row_R
            arrays[f"{number}.candidate_RP"] = attack.candidate_RP
            if attack.champion_RP is not None:
                arrays[f"{number}.champion_RP"] = attack.champion_RP
        _save_arrays(folder / "attacks.npz", arrays)
        costs = self.costs
        content = {
            "format": FORMAT,
            "candidate": self.candidate,
            "champion": self.champion,
            "policies": self.policies,
            "sets": sorted(self.sets),
            "attacks": [[a.name, a.family, _to_json(a.severity)] for a in self.attacks],
            "leaks": None if self.leaks is None else _leaks_to_json(self.leaks),
            "costs": None
            if costs is None
            else {
                "candidate_ms": costs.candidate_ms.tolist(),
                "candidate_bytes": costs.candidate_bytes,
                "champion_ms": None if costs.champion_ms is None else costs.champion_ms.tolist(),
                "champion_bytes": costs.champion_bytes,
            },
            "facts": dict(self.facts),
            "missing": dict(self.missing),
            "nothing_decided": self.nothing_decided,
            "only_own_decisions": self.only_own_decisions,
        }
        (folder / "evidence.json").write_text(json.dumps(content, indent=1, allow_nan=False))

    @classmethod
    def load(cls, folder: Path) -> "Evidence":
        """Return what `save` wrote.

        Raises:
            InvalidSnapshot: if a part is missing, damaged or of another format.
        """
        try:
            content = json.loads((folder / "evidence.json").read_text())
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']} is not {FORMAT}")
            sets = {name: _load_set(folder / f"{name}.npz") for name in content["sets"]}
            arrays = _load_arrays(folder / "attacks.npz")
            attacks = tuple(
                AttackOutcome(
                    name,
                    family,
                    float(severity),
                    arrays[f"{number}.row_R"],
                    arrays[f"{number}.candidate_RP"],
                    arrays.get(f"{number}.champion_RP"),
                )
                for number, (name, family, severity) in enumerate(content["attacks"])
            )
            leaks, costs = content["leaks"], content["costs"]
            return cls(
                candidate=content["candidate"],
                champion=content["champion"],
                policies=tuple(content["policies"]),
                sets=sets,
                attacks=attacks,
                leaks=None if leaks is None else _leaks_from_json(leaks),
                costs=None if costs is None else _costs_from_json(costs),
                facts=content["facts"],
                missing=content["missing"],
                nothing_decided=bool(content["nothing_decided"]),
                only_own_decisions=bool(content["only_own_decisions"]),
            )
        except (OSError, ValueError, KeyError, TypeError, BadZipFile, EOFError) as error:
            raise InvalidSnapshot(
                f"{folder}: no readable evidence: {error!r}; {_REMEDY}"
            ) from error


def digest_rows(item_id: Words, truth_NP: Codes, weight: Floats) -> str:
    """Return the SHA-256 of what makes a set the same set: ids, truth and weights in order."""
    digest = hashlib.sha256()
    for part in ("\x1f".join(item_id.tolist()).encode(), truth_NP.tobytes(), weight.tobytes()):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _to_json(number: float) -> str:
    return repr(float(number))


def _leaks_to_json(check: LeakCheck) -> dict[str, Any]:
    leaks = [[leak.item_id, leak.submission_id, leak.how] for leak in check.leaks]
    return {"snapshot": check.snapshot, "rows": check.rows, "leaks": leaks}


def _leaks_from_json(content: dict[str, Any]) -> LeakCheck:
    leaks = tuple(Leak(*fields) for fields in content["leaks"])
    return LeakCheck(content["snapshot"], int(content["rows"]), leaks)


def _costs_from_json(content: dict[str, Any]) -> Costs:
    champion = content["champion_ms"]
    return Costs(
        np.array(content["candidate_ms"], np.float64),
        int(content["candidate_bytes"]),
        None if champion is None else np.array(champion, np.float64),
        content["champion_bytes"],
    )


_COLUMNS: Final = (
    "item_id",
    "seller_id",
    "group",
    "weight",
    "truth_NP",
    "adjudicated_NP",
    "num_images",
)


def _save_set(one: ScoredSet, path: Path) -> None:
    arrays: dict[str, npt.NDArray[Any]] = {name: getattr(one, name) for name in _COLUMNS}
    arrays |= {f"slice.{name}": values for name, values in one.slices.items()}
    facts: dict[str, Any] = {"name": one.name, "digest": one.digest, "policies": one.policies}
    for role, answers in (("candidate", one.candidate), ("champion", one.champion)):
        if answers is None:
            continue
        arrays[f"{role}.probability_NP"] = answers.probability_NP
        arrays[f"{role}.log_odds_NP"] = answers.log_odds_NP
        if answers.lets_go_N is not None:
            arrays[f"{role}.lets_go_N"] = answers.lets_go_N
        facts[role] = {
            "bundle": answers.bundle,
            "thresholds": {policy: dict(tiers) for policy, tiers in answers.thresholds.items()},
            "lacks": answers.lacks,
        }
    arrays["facts"] = np.array(json.dumps(facts))
    _save_arrays(path, arrays)


def _load_set(path: Path) -> ScoredSet:
    arrays = _load_arrays(path)
    facts = json.loads(str(arrays["facts"]))
    answers = {
        role: Answers(
            facts[role]["bundle"],
            arrays[f"{role}.probability_NP"],
            arrays[f"{role}.log_odds_NP"],
            facts[role]["thresholds"],
            tuple(facts[role]["lacks"]),
            arrays.get(f"{role}.lets_go_N"),
        )
        for role in ("candidate", "champion")
        if role in facts
    }
    slices = {n.removeprefix("slice."): v for n, v in arrays.items() if n.startswith("slice.")}
    return ScoredSet(
        name=facts["name"],
        digest=facts["digest"],
        policies=tuple(facts["policies"]),
        candidate=answers["candidate"],
        champion=answers.get("champion"),
        slices=slices,
        **{name: arrays[name] for name in _COLUMNS},
    )


def _save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _load_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    with path.open("rb") as file, np.load(file) as arrays:
        return {name: arrays[name] for name in arrays.files}
