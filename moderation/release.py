"""The release contract: loads and checks `policies/release.yaml`, which holds every number that a gate uses."""

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from moderation.errors import PolicyError
from moderation.serving_rules import Count, ServingRules, Share
from moderation.yaml_lines import line_of, load, repeated

GateId = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{2,47}$")]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{1,47}$")]
Finite = Annotated[float, Field(allow_inf_nan=False, strict=True)]
Uncertified = Literal["block", "report", "cap"]

STANDARD: Final = "standard"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Risk(_Frozen):
    """How often the gates may be wrong about a good candidate."""

    block_good: Share
    """Chance that a good candidate fails any check of a run."""

    resamples: Annotated[int, Field(ge=200, le=20_000, strict=True)]

    min_groups: Annotated[int, Field(ge=2, strict=True)]
    """Independent sellers and campaigns with violations that a resampled figure must rest on."""


class Promotion(_Frozen):
    """What a candidate must be better at."""

    objective: GateId
    """The gate that must show superiority over the champion; others that compare `more_than` do not decide."""


class GoldenRules(_Frozen):
    """How the golden set is drawn and kept."""

    share_of_groups: Share
    max_items: Count
    rotation_share: Share
    max_looks: Count


class Capacity(_Frozen):
    """The traffic that shares are turned into counts by."""

    uploads_per_day: Count


Border = Annotated[float, Field(gt=0, strict=True)]
Borders = tuple[Border, Border]


class SliceRules(_Frozen):
    """Where numbers are cut into slices: below the first border, below the second, and from there on."""

    seller_age_days: Borders
    """new, young, old"""

    seller_uploads_30d: Borders
    """small, medium, large"""

    min_combination: Count
    """Rows of two values together below which a combination is not looked at: it could not stand out."""

    attributes: tuple[Name, ...] = ()
    """Attributes that the data brings and gates may name, beside the slices that every set has."""

    @model_validator(mode="after")
    def _borders_rise(self) -> "SliceRules":
        for name in ("seller_age_days", "seller_uploads_30d"):
            first, second = getattr(self, name)
            if first >= second:
                raise ValueError(f"{name}: the second border must lie above the first")
        return self


class Suite(_Frozen):
    """How many listings of the golden set the attacks are tried on."""

    violations_per_policy: Count
    innocents: Count
    """Look-alikes first."""

    white_box_items: Count
    """Violations per run: every one costs seconds of gradients."""

    white_box_steps: Count


class Samples(_Frozen):
    """What is drawn of recorded decisions and of traffic."""

    replay_days: Count
    """Before the newest decision."""

    replay_decisions: Count
    """Of more, a sample."""

    timed_listings: Count


class Gate(_Frozen):
    """One test that may block a candidate."""

    id: GateId
    why: Annotated[str, Field(min_length=10)]
    measure: Name
    set: Literal["golden", "traffic", "fresh", "attacks", "replay", "costs"]
    versus: Literal["limit", "champion"] = "limit"
    comparator: Literal["at_least", "at_most", "more_than"]
    limit: Finite
    slices: tuple[Name, ...] = ()
    tier: Literal["tag", "review", "block", "suspend"] | None = None
    min_rows: Count = 1
    min_positives: Annotated[int, Field(ge=0, strict=True)] = 0
    confidence: Annotated[float, Field(gt=0.5, lt=1, strict=True)] = 0.95
    uncertified: Uncertified = "block"

    @model_validator(mode="after")
    def _superiority_needs_a_champion(self) -> "Gate":
        if self.comparator == "more_than" and self.versus != "champion":
            raise ValueError("more_than is superiority: it needs versus: champion")
        if self.uncertified == "cap" and self.tier is None:
            raise ValueError("uncertified: cap needs the tier that it closes")
        return self


class ContractProfile(_Frozen):
    """Which gates that are not certified still block."""

    says: str = ""
    """What is printed wherever this profile judged; empty for the standard one."""

    report_all_but: tuple[GateId, ...] | None = None
    """Gates that keep blocking when not certified or without data, the objective among them; None: all do."""

    suite: Suite | None = None
    """Attacks on fewer listings than elsewhere; None: the contract's own."""

    data_needed: tuple[GateId, ...] = ()
    """Gates let off when not certified, that block all the same without data: a bundle that answers nothing shows
    nothing wrong."""


class ReleaseContract(_Frozen):
    """Every number of a release, with the digest of the file's bytes."""

    version: str
    digest: str
    risk: Risk
    promotion: Promotion
    golden: GoldenRules
    capacity: Capacity
    slices: SliceRules
    suite: Suite
    samples: Samples
    serving: ServingRules
    gates: Annotated[tuple[Gate, ...], Field(min_length=1)]
    profiles: dict[str, ContractProfile]

    def profile(self, name: str) -> ContractProfile:
        """Return a profile by its name.

        Raises:
            PolicyError: if there is none.
        """
        if name not in self.profiles:
            raise PolicyError(f"the contract has no profile {name}; it has {sorted(self.profiles)}")
        return self.profiles[name]

    def gate(self, gate_id: str) -> Gate:
        """Return a gate by its id; KeyError if there is none."""
        return next(gate for gate in self.gates if gate.id == gate_id)

    @model_validator(mode="after")
    def _names_agree(self) -> "ReleaseContract":
        ids = [gate.id for gate in self.gates]
        twice = sorted({one for one in ids if ids.count(one) > 1})
        if twice:
            raise ValueError(f"gates: two gates share one id: {twice}")
        if self.promotion.objective not in ids:
            raise ValueError(f"promotion.objective: {self.promotion.objective} is no gate")
        if self.gate(self.promotion.objective).comparator != "more_than":
            raise ValueError("promotion.objective: superiority is a gate with `more_than`")
        if STANDARD not in self.profiles or self.profiles[STANDARD].report_all_but is not None:
            raise ValueError("profiles.standard: must be there, and everything blocks in it")
        for name, profile in self.profiles.items():
            kept = profile.report_all_but
            for field, named in (("report_all_but", kept), ("data_needed", profile.data_needed)):
                if strangers := sorted(set(named or ()) - set(ids)):
                    raise ValueError(f"profiles.{name}.{field}: no such gate: {strangers}")
            if kept is not None and self.promotion.objective not in kept:
                raise ValueError(
                    f"profiles.{name}.report_all_but: the objective {self.promotion.objective} must be there: what is "
                    "not shown to be better replaces no champion"
                )
            if kept is not None and not profile.says:
                raise ValueError(f"profiles.{name}.says: a profile that lets gates off must say so")
        return self


SHARE: Final = (0.0, 1.0)


@dataclass(frozen=True)
class Reads:
    """What a measure reads of a gate: what it does not read, no gate may ask of it."""

    sets: frozenset[str]
    may: frozenset[str] = frozenset()
    """Of `slices`, `versus` (the champion), `tier` and `cap`."""

    must: frozenset[str] = frozenset()
    """The same; a gate without them judges nothing."""

    figures: tuple[float, float] = (-math.inf, math.inf)
    """Least and greatest figure; a share's difference from the champion's lies between -1 and 1."""

    def range_of(self, gate: "Gate") -> tuple[float, float]:
        """Return the least and the greatest figure that a gate may see."""
        return (-1.0, 1.0) if gate.versus == "champion" and self.figures == SHARE else self.figures


@dataclass(frozen=True)
class Vocabulary:
    """What gates may name; whoever measures knows it."""

    measures: Mapping[str, Reads]

    slices: Collection[str]
    """Slices that every set has."""


def load_release(path: Path, vocabulary: Vocabulary | None = None) -> ReleaseContract:
    """Return the checked contract of a YAML file.

    Args:
        path: the file.
        vocabulary: what gates may name; None leaves that unchecked.

    Raises:
        PolicyError: naming the file, the line and each wrong field.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise PolicyError(f"{path}: cannot be read: {error}") from error
    return parse_release(raw, str(path), vocabulary)


def parse_release(raw: bytes, origin: str, vocabulary: Vocabulary | None = None) -> ReleaseContract:
    """Return the checked contract of a file's bytes; the digest is that of the bytes.

    Args:
        raw: YAML in UTF-8.
        origin: where the bytes came from, for people.
        vocabulary: what gates may name; None leaves that unchecked.

    Raises:
        PolicyError: naming the origin, the line and each wrong field.
    """
    try:
        node, content = load(raw)
    except ValueError as error:
        raise PolicyError(f"{origin}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise PolicyError(f"{origin}: a mapping with version, risk, gates, ... is expected")
    twice = [_explain(origin, node, loc, "is said twice") for loc in repeated(node)]
    if twice:
        raise PolicyError("; ".join(twice))
    content["version"] = str(content.get("version", ""))
    content["digest"] = hashlib.sha256(raw).hexdigest()
    try:
        contract = ReleaseContract.model_validate(content)
    except ValidationError as error:
        wrong = [_explain(origin, node, one["loc"], one["msg"]) for one in error.errors()]
        raise PolicyError("; ".join(wrong)) from error
    unknown = [] if vocabulary is None else _unknown(contract, vocabulary)
    if unknown:
        raise PolicyError("; ".join(_explain(origin, node, loc, said) for loc, said in unknown))
    return contract


def _unknown(
    contract: ReleaseContract, vocabulary: Vocabulary
) -> list[tuple[tuple[int | str, ...], str]]:
    """Return where gates name what nobody measures, and what is wrong there."""
    slices = {*vocabulary.slices, *contract.slices.attributes}
    wrong: list[tuple[tuple[int | str, ...], str]] = []
    for number, gate in enumerate(contract.gates):
        reads = vocabulary.measures.get(gate.measure)
        if reads is None:
            wrong.append((("gates", number, "measure"), f"nothing measures {gate.measure}"))
        else:
            wrong += [(("gates", number, name), said) for name, said in _unread(gate, reads)]
        wrong += [
            (("gates", number, "slices"), f"there is no slice {name}; there are {sorted(slices)}")
            for name in gate.slices
            if name not in slices
        ]
    return wrong


def _unread(gate: Gate, reads: Reads) -> Iterator[tuple[str, str]]:
    """Yield the fields of a gate that its measure does not read, or lacks, and what is wrong with each."""
    if gate.set not in reads.sets:
        can = ", ".join(sorted(reads.sets))
        yield "set", f"{gate.measure} cannot be taken of {gate.set}, but of {can}"
    asked = {
        "slices": bool(gate.slices),
        "versus": gate.versus == "champion",
        "tier": gate.tier is not None,
        "cap": gate.uncertified == "cap",
    }
    for name, is_asked in asked.items():
        field = "uncertified" if name == "cap" else name
        if is_asked and name not in reads.may | reads.must:
            yield field, f"{gate.measure} does not read {name}: the gate would judge without it"
        elif not is_asked and name in reads.must:
            wanted = "versus: champion" if name == "versus" else name
            yield "measure", f"{gate.measure} needs {wanted}"
    least, most = reads.range_of(gate)
    is_upper = gate.comparator == "at_most"
    if gate.limit >= most if is_upper else gate.limit <= least:
        side = "above" if is_upper else "below"
        yield "limit", f"{gate.measure} is never {side} {gate.limit:g}: the gate could not fire"


def _explain(origin: str, node: Any, loc: tuple[int | str, ...], message: str) -> str:
    message = message.removeprefix("Value error, ")
    if not loc:  # a check over the whole file names its field itself: "gates: ...", "promotion.objective: ..."
        loc = tuple(message.partition(":")[0].split("."))
        return f"{origin}:{line_of(node, loc)}: {message}"
    return f"{origin}:{line_of(node, loc)}: {'.'.join(map(str, loc))}: {message}"
