"""Golden items among what a candidate was trained on: a model that has seen the exam proves nothing by it."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from moderation.gates.estimates import Estimate, Exact, nothing
from moderation.gates.judging import Context, measure
from moderation.release import Gate

SNAPSHOT_FACT: Final = "snapshot"
"""Name of the fact that says which snapshot the candidate's manifest names."""

_SHOWN: Final = 5


@measure("leaked_items")
def leaked_items(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield how many golden items the candidate was fitted on, on copies of, or on the sellers of; all are counted."""
    evidence, golden = context.evidence, context.set(gate)
    check, trained_on = evidence.leaks, evidence.facts.get(SNAPSHOT_FACT)
    if golden is None:
        yield nothing("", f"the set {gate.set} is not there")
    elif check is None:
        yield nothing("", evidence.missing.get("leaks", "no search for leaks was made"))
    elif check.snapshot != trained_on:
        yield nothing(
            "",
            f"snapshot {check.snapshot[:12]} was searched, but the candidate says that it was trained on "
            f"{(trained_on or 'an unknown one')[:12]}: prove it with its own snapshot",
        )
    elif not check.rows:
        yield nothing("", f"snapshot {check.snapshot[:12]} has no row that anything was fitted on")
    else:
        leaked = sorted({leak.item_id for leak in check.leaks})
        ways = Counter(leak.how for leak in check.leaks)
        told = ", ".join(f"{number} by {how}" for how, number in sorted(ways.items()))
        yield Estimate(
            of="",
            value=float(len(leaked)),
            spread=Exact(float(len(leaked))),
            rows=golden.num_rows,
            remark=f"{told}: {', '.join(leaked[:_SHOWN])}" if leaked else "",
            detail={"rows_searched": check.rows, "ways": dict(ways), "items": leaked[:100]},
        )
