"""Alert expressions, evaluated on two pages of /metrics as Prometheus would: the few forms that our rules have."""

import math
import re
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

_AGGREGATE: Final = re.compile(
    r"(?P<how>sum|max)(?: by \((?P<by>\w+)\) )?\("
    r"(?:(?P<change>increase|rate)\()?(?P<name>tidegate_\w+)(?:\{(?P<labels>[^}]*)\})?(?:\[\d+s\])?\)?\)"
)
_MATCHER: Final = re.compile(r'(\w+)(=~|!~|=)"([^"]*)"')

Series = tuple[tuple[str, str], ...]


def fires(expression: str, before: str, after: str) -> bool:
    """Return whether an alert's expression holds at the end of a window.

    Args:
        expression: of a rule.
        before: the page of metrics when the window begins.
        after: the page when it ends. What is counted by a label fires where any of its values does.
    """
    values: dict[str, _Number] = {}

    def named(found: re.Match[str]) -> str:
        name = f"value_{len(values)}"
        values[name] = _Number(_value(found, before, after))
        return name

    text = _AGGREGATE.sub(named, expression)
    assert "tidegate" not in text, f"a form that is not known here: {expression}"
    return bool(eval(text, {"__builtins__": {}}, values))


class _Number(float):
    """Divides as Prometheus does; what is no number, as where there is no series, is more or less than nothing."""

    def __truediv__(self, other: float) -> "_Number":
        return _Number(float(self) / other if other else math.nan)


def _value(found: re.Match[str], before: str, after: str) -> float:
    now = _series(found, after)
    if found["change"]:
        # A series that was not there before began between two scrapes: Prometheus sees no increase of it.
        then = _series(found, before)
        now = {key: number - then[key] for key, number in now.items() if key in then}
    groups = dict[str, list[float]]()
    for series, number in now.items():
        groups.setdefault(dict(series).get(found["by"] or "", ""), []).append(number)
    values = [sum(group) if found["how"] == "sum" else max(group) for group in groups.values()]
    return max(values, default=math.nan)


def _series(found: re.Match[str], page: str) -> dict[Series, float]:
    matchers = _MATCHER.findall(found["labels"] or "")
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == found["name"] and _is_meant(sample.labels, matchers)
    }


def _is_meant(labels: dict[str, str], matchers: list[tuple[str, str, str]]) -> bool:
    for label, how, text in matchers:
        is_equal = labels.get(label, "") == text
        is_like = re.fullmatch(text, labels.get(label, "")) is not None
        if not {"=": is_equal, "=~": is_like, "!~": not is_like}[how]:
            return False
    return True
