"""A YAML file's content, and where something stands in it, so that an error names its line."""

from collections.abc import Iterator
from typing import Any, Final

import yaml

MAX_NODES: Final = 500_000
"""Keys and values of a file, each counted as often as an alias repeats it."""

Loc = tuple[int | str, ...]
"""Keys and positions from the top of a file down to one of its parts."""


def load(raw: bytes) -> tuple[Any, Any]:
    """Return a YAML file as nodes, which know their lines (None where it is empty), and as what it says.

    Args:
        raw: in UTF-8 or UTF-16.

    Raises:
        ValueError: if it is no YAML, a value is not what its tag says, it is nested too deep or in itself, or its
            aliases unfold to more than `MAX_NODES`.
    """
    try:
        node = yaml.compose(raw, Loader=yaml.SafeLoader)
        if _size(node, {}) > MAX_NODES:
            raise ValueError(f"its aliases unfold to more than {MAX_NODES:,} values; write less")
        return node, yaml.safe_load(raw)
    except RecursionError as error:
        raise ValueError("it is nested too deep, or in itself; write it flat") from error
    except (yaml.YAMLError, AttributeError, LookupError, TypeError, ArithmeticError) as error:
        # Constructors of tags raise whatever comes of a value that is none: "!!timestamp soon".
        raise ValueError(str(error) or "a value is not what its tag says") from error


def _size(node: Any, known: dict[int, int]) -> int:
    """Return how many nodes there are below one, aliases followed; endless where it is inside itself."""
    if isinstance(node, yaml.ScalarNode) or node is None:
        return 1
    if id(node) not in known:
        below = node.value
        if isinstance(node, yaml.MappingNode):
            below = [one for pair in below for one in pair]
        known[id(node)] = 1 + sum(_size(one, known) for one in below)
    return known[id(node)]


def repeated(node: Any, loc: Loc = ()) -> Iterator[Loc]:
    """Yield every key that a mapping below `node` has twice: the last one would win, unseen."""
    if isinstance(node, yaml.SequenceNode):
        for number, one in enumerate(node.value):
            yield from repeated(one, (*loc, number))
    elif isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        for place, (key, value) in enumerate(node.value):
            if key.value in keys[:place]:
                yield (*loc, key.value)
            yield from repeated(value, (*loc, key.value))


def line_of(node: Any, loc: Loc) -> int:
    """Return the line, from 1, of the deepest part of `loc` that the file holds."""
    line: int = node.start_mark.line + 1
    for step in loc:
        found = None
        if isinstance(node, yaml.MappingNode):  # of a key that is there twice, the last
            found = next(((k, v) for k, v in reversed(node.value) if k.value == str(step)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            found = (node.value[step],) * 2 if step < len(node.value) else None
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line
