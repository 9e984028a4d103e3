"""Small drawings as SVG: an interval against a limit, precision against recall. Nothing is fetched or run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from moderation.evaluation.metrics import Curve
from moderation.evaluation.page import escape
from moderation.gates.judging import is_shown_right
from moderation.pack.record import CheckRecord
from moderation.pack.words import STATES, spread, wanted
from moderation.release import Gate

_WIDTH, _HEIGHT, _EDGE = 190, 24, 7
_SIZE, _LEFT, _TOP = 230, 46, 10
_STEP: Final = 2.0
"""Pixels between the points of a curve that are drawn."""


def against_limit(gate: Gate, check: CheckRecord) -> str:
    """Return a figure as a dot on its interval, the limit as a line, the side that is allowed shaded."""
    if check.value is None:
        return ""
    known = [check.value, gate.limit] + [b for b in (check.low, check.high) if b is not None]
    low, high = min(known), max(known)
    room = 0.15 * (high - low) or 0.5 * abs(gate.limit) or 1.0
    low, high = low - room, high + room

    def place(value: float | None, otherwise: float) -> float:
        if value is None:
            return otherwise
        return _EDGE + (value - low) / (high - low) * (_WIDTH - 2 * _EDGE)

    limit, dot = place(gate.limit, 0), place(check.value, 0)
    left, right = place(check.low, 0), place(check.high, _WIDTH)
    allowed = (limit, _WIDTH) if is_shown_right(gate, high, high) else (0, limit)
    kind, said = STATES[check.state][1], f"{spread(check)}, must be {wanted(gate)}"
    return (
        f'<svg class="mark {kind}" width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'role="img" aria-label="{escape(said)}">'
        f'<rect x="{allowed[0]:.0f}" y="2" width="{max(allowed[1] - allowed[0], 0):.0f}" height="20"/>'
        f'<path class="l" d="M{limit:.1f} 0V{_HEIGHT}"/>'
        f'<path class="b" d="M{left:.1f} 12H{right:.1f}"/><circle cx="{dot:.1f}" cy="12" r="4.5"/></svg>'
    )


@dataclass(frozen=True)
class Line:
    """One precision-recall curve and how it is drawn."""

    name: str
    curve: Curve
    colour: str
    dash: str = ""


def precision_recall(lines: list[Line], bounds: Mapping[str, float]) -> str:
    """Return precision against recall, one line per model, with the precision that tiers demand.

    Args:
        lines: drawn in order, the last on top.
        bounds: tier -> precision that it must be shown to hold.
    """
    parts = [
        f'<svg width="{_LEFT + _SIZE + 14}" height="{_SIZE + 46}" '
        f'viewBox="0 0 {_LEFT + _SIZE + 14} {_SIZE + 46}" role="img" aria-label="precision against recall">'
    ]
    for tenth in range(0, 11, 2):
        x, y = _LEFT + _SIZE * tenth / 10, _TOP + _SIZE * (1 - tenth / 10)
        parts.append(
            f'<path class="g" d="M{x:.0f} {_TOP}V{_TOP + _SIZE}M{_LEFT} {y:.0f}H{_LEFT + _SIZE}"/>'
            f'<text x="{x:.0f}" y="{_TOP + _SIZE + 15}" text-anchor="middle">{tenth / 10:g}</text>'
            f'<text x="{_LEFT - 5}" y="{y + 4:.0f}" text-anchor="end">{tenth / 10:g}</text>'
        )
    for tier, bound in bounds.items():
        y = _TOP + _SIZE * (1 - bound)
        parts.append(
            f'<path class="t" d="M{_LEFT} {y:.1f}H{_LEFT + _SIZE}">'
            f"<title>precision that {escape(tier)} demands</title></path>"
        )
    for line in lines:
        dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
        parts.append(
            f'<path d="{_steps(line.curve)}" fill="none" stroke="{line.colour}" stroke-width="2"{dash}>'
            f"<title>{escape(line.name)}</title></path>"
        )
    middle = _TOP + _SIZE / 2
    parts.append(
        f'<text x="{_LEFT + _SIZE / 2}" y="{_TOP + _SIZE + 31}" text-anchor="middle">'
        "share of violations found (recall)</text>"
        f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">'
        "share of flags that are right (precision)</text></svg>"
    )
    return "".join(parts)


def _steps(curve: Curve) -> str:
    """Return the path of a curve with one point in every two pixels at most."""
    x_S = _LEFT + _SIZE * curve.recall
    y_S = _TOP + _SIZE * (1 - curve.precision)
    _, kept = np.unique((x_S / _STEP).astype(int), return_index=True)
    if len(x_S):
        kept = np.union1d(kept, [len(x_S) - 1])
    points = [f"{x_S[i]:.0f} {y_S[i]:.1f}" for i in kept]
    return "M" + "L".join(points) if points else ""
