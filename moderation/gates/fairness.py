"""Fairness: gaps between the rates of slice values, each shown small or not certified, with the rows it would take.

Rates are those at the candidate's own review threshold: of violations found, of innocent listings flagged. R rows of a
comparison, V values of a slice.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from moderation.gates.estimates import Estimate, nothing, of_unknown
from moderation.gates.evidence import ScoredSet
from moderation.gates.gaps import Flags, Gaps, Integers, LargestGap, gaps_of, rows_to_certify
from moderation.gates.judging import Context, measure
from moderation.gates.quality import of_lacking_values
from moderation.gates.tiers import flagging_threshold
from moderation.release import Gate

Words = npt.NDArray[np.str_]

_STRATA: Final = "evasive"
_BOTH_SIDES_POWER: Final = 0.9
"""Each side of an equivalence at this power gives 80 % for both."""


@dataclass(frozen=True)
class Kind:
    """What is compared."""

    truth: int
    unit: str
    side: int
    """Which deviation of a combination is harm: 1 raised, -1 lowered."""

    measure: str
    words: str


FOUND: Final = Kind(1, "positives", -1, "true_positive_gap", "finds")
FLAGGED: Final = Kind(0, "rows", 1, "false_positive_gap", "flags")


@dataclass(frozen=True)
class ComparedRows:
    """The R rows of one policy that a rate is taken of."""

    policy: str
    kind: Kind
    row_R: Integers
    hit_R: Flags
    stratum_R: Integers
    """Evasive, plain or unknown for violations; one stratum for innocent rows."""

    group_R: Integers

    @classmethod
    def of(cls, found: ScoredSet, column: int, kind: Kind, threshold: float) -> "ComparedRows":
        """Return the rows of known truth under a policy that are violations, or those that are not."""
        row_R = np.flatnonzero(found.truth_NP[:, column] == kind.truth)
        stratum_R = np.zeros(len(row_R), np.int64)
        if kind.truth == 1 and _STRATA in found.slices:
            _, stratum_R = np.unique(found.slices[_STRATA][row_R], return_inverse=True)
        return cls(
            policy=found.policies[column],
            kind=kind,
            row_R=row_R,
            hit_R=found.candidate.probability_NP[row_R, column] >= threshold,
            stratum_R=stratum_R.astype(np.int64),
            group_R=found.group[row_R],
        )

    def compare(self, inside_VR: Flags, known_R: Flags) -> Gaps:
        """Return the gaps of subsets of the rows whose value is known."""
        return gaps_of(
            self.hit_R[known_R],
            inside_VR[:, known_R],
            self.stratum_R[known_R],
            self.group_R[known_R],
        )


@measure("true_positive_gap")
def true_positive_gap(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield per policy and slice how far the share of violations found in one value is from that in all others.

    Compared at one mix of evasive and plain violations: a language in which more is hidden is not unfair for it.
    """
    yield from _largest_gaps(context, gate, FOUND)


@measure("false_positive_gap")
def false_positive_gap(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield per policy and slice how far the share of innocent listings flagged in one value is from that in others."""
    yield from _largest_gaps(context, gate, FLAGGED)


def rows_of(found: ScoredSet, column: int, kind: Kind) -> ComparedRows | str:
    """Return the rows of a rate, or why there are none."""
    policy = found.policies[column]
    threshold = flagging_threshold(found.candidate, policy)
    if threshold is None:
        return "nothing is flagged: review and every stronger tier are closed"
    if not np.isfinite(found.candidate.probability_NP[:, column]).all():
        return "a score is no number"
    return ComparedRows.of(found, column, kind, threshold)


def _largest_gaps(context: Context, gate: Gate, kind: Kind) -> Iterator[Estimate]:
    found = context.set(gate)
    if found is None:
        yield nothing("", f"the set {gate.set} is not there")
        return
    yield from of_lacking_values(context, gate, found)
    compared: list[tuple[ComparedRows, str, Words]] = []
    for column, policy in enumerate(found.policies):
        rows = rows_of(found, column, kind)
        if isinstance(rows, str):
            yield nothing(policy, rows)
            continue
        for name in gate.slices:
            why = _why_not(found, name, column)
            if why:
                yield nothing(f"{policy} · {name}", why, needed=_fewest(gate, kind), unit=kind.unit)
            else:
                compared.append((rows, name, _values(found, name, column)))
    for number, rates in enumerate(_rates(found, compared)):
        yield _largest_gap(found, gate, compared[number], rates)
        yield from of_unknown(_gap_of_unknown(found, gate, compared[number]))


def _why_not(found: ScoredSet, name: str, column: int) -> str:
    if name not in found.slices:
        return "the set has no such slice"
    values = _values(found, name, column)
    if len(values) < 2:
        return f"only {', '.join(values) or 'unknown values'}: there is nothing to compare with"
    return ""


def _values(found: ScoredSet, name: str, column: int) -> Words:
    """Return the known values of a slice among rows of known truth, whatever the truth is."""
    values: Words = np.unique(found.slices[name][found.truth_NP[:, column] >= 0])
    known: Words = values[values != ""]
    return known


def _largest_gap(
    found: ScoredSet, gate: Gate, part: tuple[ComparedRows, str, Words], rates: Mapping[str, float]
) -> Estimate:
    rows, name, values = part
    value_R = found.slices[name][rows.row_R]
    gaps = rows.compare(value_R == values[:, None], value_R != "")
    of = f"{rows.policy} · {name}"
    fewest = int(gaps.rows_V.min())
    if not np.isfinite(gaps.value_V).any():
        why = f"no {rows.kind.unit} in at least two values"
        return nothing(of, why, needed=_fewest(gate, rows.kind), unit=rows.kind.unit)
    spread = LargestGap(gaps)
    worst = int(np.nanargmax(np.abs(gaps.value_V)))
    needed_V = _needed(gate, rows.kind, gaps)
    most = int(np.argmax(needed_V))
    table = {
        value: _facts(gaps, v, gate.confidence)
        | {"unstandardised_rate": rates.get(value), "needed": int(needed_V[v]) or None}
        for v, value in enumerate(values.tolist())
    }
    return Estimate(
        of=of,
        value=spread.value,
        spread=spread,
        rows=fewest if rows.kind is FLAGGED else int((value_R != "").sum()),
        positives=fewest if rows.kind is FOUND else 0,
        needed=int(needed_V[most]) or None,
        unit=f"{rows.kind.unit} in {name}={values[most]}",
        remark=_remark(gate, rows.kind, gaps, [f"{name}={value}" for value in values], worst),
        detail={
            "policy": rows.policy,
            "slice": name,
            "worst": str(values[worst]),
            "values": table,
            "unknown": int((value_R == "").sum()),
            "stratified_by": _STRATA if rows.stratum_R.any() else "",
        },
    )


def _gap_of_unknown(
    found: ScoredSet, gate: Gate, part: tuple[ComparedRows, str, Words]
) -> Estimate:
    """Return how far the rows whose value is unknown are from those of all values."""
    rows, name, _ = part
    is_unknown_R = found.slices[name][rows.row_R] == ""
    of, number = f"{rows.policy} · {name} unknown", int(is_unknown_R.sum())
    gaps = rows.compare(is_unknown_R[None], np.ones(len(is_unknown_R), bool))
    if not np.isfinite(gaps.value_V).any():
        return nothing(of, f"no {rows.kind.unit} of unknown {name} beside others")
    spread = LargestGap(gaps)
    return Estimate(
        of=of,
        value=spread.value,
        spread=spread,
        rows=number,
        positives=number if rows.kind is FOUND else 0,
        needed=int(_needed(gate, rows.kind, gaps)[0]) or None,
        unit=f"{rows.kind.unit} of unknown {name}",
        remark=_remark(gate, rows.kind, gaps, [f"{name} unknown"], 0),
    )


def _fewest(gate: Gate, kind: Kind) -> int:
    return gate.min_positives if kind is FOUND else gate.min_rows


def _needed(gate: Gate, kind: Kind, gaps: Gaps) -> Integers:
    """Return how many rows each value needs, were it no different from the others.

    0 where it has enough, or where it looks so different that no number would do.
    """
    needed = np.zeros(len(gaps.rows_V), np.int64)
    if gate.limit <= 0:
        return needed
    wanted = stats.norm.ppf(gate.confidence) + stats.norm.ppf(_BOTH_SIDES_POWER)
    shown_V = np.abs(gaps.centre_V) + gaps.reach(gate.confidence) <= gate.limit
    overall = float(np.nanmean(gaps.other_rate_V))
    for v, rows in enumerate(gaps.rows_V.tolist()):
        if rows >= _fewest(gate, kind) and (shown_V[v] or abs(gaps.centre_V[v]) >= gate.limit):
            continue
        if math.isfinite(gaps.error_V[v]):
            enough = math.ceil(rows * (wanted * gaps.error_V[v] / gate.limit) ** 2)
        else:
            enough = rows_to_certify(gate.limit, overall, confidence=gate.confidence)
        needed[v] = max(enough, _fewest(gate, kind))
    return needed


def _remark(gate: Gate, kind: Kind, gaps: Gaps, names: Sequence[str], worst: int) -> str:
    told = [
        f"furthest {names[worst]}: {kind.words} {gaps.rate_V[worst]:.2f}, others {gaps.other_rate_V[worst]:.2f}"
    ]
    thin = [
        f"{name} ({rows})"
        for name, rows in zip(names, gaps.rows_V.tolist(), strict=True)
        if rows < _fewest(gate, kind)
    ]
    if thin:
        told.append(f"too few {kind.unit} in {', '.join(thin)}")
    return "; ".join(told)


def _facts(gaps: Gaps, v: int, confidence: float) -> dict[str, Any]:
    reach = gaps.reach(confidence)[v]
    numbers = {
        "rate": gaps.rate_V[v],
        "others": gaps.other_rate_V[v],
        "gap": gaps.value_V[v],
        "low": gaps.centre_V[v] - reach,
        "high": gaps.centre_V[v] + reach,
    }
    known = {k: float(n) if math.isfinite(n) else None for k, n in numbers.items()}
    return known | {"rows": int(gaps.rows_V[v])}


def _rates(
    found: ScoredSet, compared: Sequence[tuple[ComparedRows, str, Words]]
) -> Iterator[dict[str, float]]:
    """Yield the plain rate of each value of each comparison: one frame for all, as a frame costs more than its rows."""
    hits = np.concatenate([np.empty(0, bool), *(rows.hit_R for rows, _, _ in compared)])
    if not len(hits):  # a frame of nothing is an error
        yield from ({} for _ in compared)
        return
    from fairlearn.metrics import MetricFrame  # imports scikit-learn: seconds

    values = [found.slices[name][rows.row_R] for rows, name, _ in compared]
    keys = np.concatenate([np.char.add(f"{n}\x1f", v) for n, v in enumerate(values)])
    frame = MetricFrame(metrics=_share, y_true=hits, y_pred=hits, sensitive_features=keys)
    by_key = {str(key): float(rate) for key, rate in frame.by_group.items()}
    for number, (_, _, named) in enumerate(compared):
        keyed = {value: f"{number}\x1f{value}" for value in named.tolist()}
        yield {value: by_key[key] for value, key in keyed.items() if key in by_key}


def _share(_: Flags, hit_R: Flags) -> float:
    return float(np.mean(hit_R))
