"""What a bundle's behaviour prefilter would let pass without a score: of violations next to nothing.

N rows of a set, V violations.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from moderation.gates.estimates import Estimate, Exact, Proportion, nothing
from moderation.gates.evidence import Flags, ScoredSet
from moderation.gates.judging import Context, measure
from moderation.precision import bound_precision, flags_needed, typical_weight
from moderation.release import Gate

Integers = npt.NDArray[np.int64]

EVASIVE: Final = "evasive"


@measure("prefilter_recall")
def prefilter_recall(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield the weighted share of violations that go on, per policy and of the evasive ones of all.

    A bundle without a prefilter, or whose prefilter is closed, lets nothing go: that needs no sample. Where no
    violation of a kind is known there is no data: what an open prefilter does to them is unknown, not harmless. The
    bound is exact at the effective number of independent violations, with one invented group that is let go.
    """
    found = context.set(gate)
    if found is None:
        yield nothing("", f"the set {gate.set} is not there")
        return
    lets_go_N = found.candidate.lets_go_N
    if lets_go_N is None:
        yield Estimate("", 1.0, Exact(1.0), found.num_rows, remark="it lets nothing go")
        return
    for name, rows_V in _strata(found):
        yield _recall(found, gate, name, rows_V, lets_go_N)


def _strata(found: ScoredSet) -> Iterator[tuple[str, Integers]]:
    for column, policy in enumerate(found.policies):
        yield policy, np.flatnonzero(found.truth_NP[:, column] == 1)
    hides_N = found.slices.get(EVASIVE, np.full(found.num_rows, "")) == EVASIVE
    yield EVASIVE, np.flatnonzero(hides_N & (found.truth_NP == 1).any(axis=1))


def _recall(
    found: ScoredSet, gate: Gate, name: str, rows_V: Integers, lets_go_N: Flags
) -> Estimate:
    needed = flags_needed(gate.limit, gate.confidence) if 0 < gate.limit < 1 else None
    if not len(rows_V):
        return nothing(name, "no violation is known", needed=needed, unit="positives")
    goes_on_V, weight_V = ~lets_go_N[rows_V], found.weight[rows_V]
    bound = bound_precision(
        goes_on_V.astype(np.int8),
        weight_V,
        found.group[rows_V],
        confidence=gate.confidence,
        error_weight=typical_weight(weight_V),
    )
    # Where every violation is let go no error is left that trials could be told from: the groups are those trials.
    trials = bound.effective_n or float(len(np.unique(found.group[rows_V])))
    return Estimate(
        of=name,
        value=bound.precision,
        spread=Proportion(bound.precision * trials, trials),
        rows=len(rows_V),
        positives=len(rows_V),
        needed=needed,
        unit="positives",
        remark=f"{bound.errors} of {len(rows_V)} violations let go, worth {trials:.0f} independent ones",
        detail={"share_let_go": float(found.weight[lets_go_N].sum() / found.weight.sum())},
    )
