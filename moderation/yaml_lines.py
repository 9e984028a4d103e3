"""Where something stands in a YAML file, so that an error names its line."""

from collections.abc import Iterator
from typing import Any

import yaml

Loc = tuple[int | str, ...]
"""Keys and positions from the top of a file down to one of its parts."""


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
