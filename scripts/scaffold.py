"""Scaffolds a pipeline step or a decision record, so that a new one starts in the house's shape."""

import re
import sys
from pathlib import Path

_COMPONENT = '''"""{Words}."""

from kfp import dsl

from components.base import component


@component
def {name}(table: dsl.Input[dsl.Dataset], metrics: dsl.Output[dsl.Metrics]) -> None:
    """{Words} (say what it reads, what it writes, and when it fails)."""
    from components.{name} import step
    from components.outputs import log_metrics

    log_metrics(metrics, step.run(table.path))
'''
_STEP = '''"""Snapshot -> how many rows it has; say here what the step really turns into what."""

from pathlib import Path

from moderation.snapshot import Snapshot


def run(table: str) -> dict[str, float]:
    """Return the number of rows of the snapshot in the folder `table`."""
    return {{"rows": float(Snapshot.open(Path(table)).num_rows)}}
'''
_ADR = "# {number:04d}. {title}\n\n## Status\n\nProposed.\n\n## Context\n\n## Decision\n\n## Consequences\n"


def scaffold_component(name: str, root: Path) -> Path:
    """Return the new component's file; an existing folder is never touched."""
    if not re.fullmatch(r"[a-z][a-z_]+", name):
        raise SystemExit("a component is a verb phrase in lower case, such as NAME=detect_drift")
    folder = root / "components" / name
    folder.mkdir()
    words = name.replace("_", " ")
    (folder / "__init__.py").write_text(f'"""The pipeline step `{name}`."""\n')
    (folder / "step.py").write_text(_STEP.format())
    (folder / "README.md").write_text(
        f"# {name}\n\nWhat it reads, what it writes, when it fails.\n"
    )
    path = folder / "component.py"
    path.write_text(_COMPONENT.format(name=name, words=words, Words=words.capitalize()))
    return path


def scaffold_adr(title: str, root: Path) -> Path:
    """Return the new record, numbered after the last."""
    if not title:
        raise SystemExit('give the decision a title: make adr TITLE="Keep weights in the table"')
    folder = root / "docs/adr"
    number = 1 + max((int(path.name[:4]) for path in folder.glob("[0-9]*.md")), default=0)
    path = folder / f"{number:04d}-{re.sub('[^a-z0-9]+', '-', title.lower()).strip('-')}.md"
    path.write_text(_ADR.format(number=number, title=title))
    return path


if __name__ == "__main__":
    make = {"component": scaffold_component, "adr": scaffold_adr}[sys.argv[1]]
    sys.stdout.write(f"{make(sys.argv[2], Path.cwd())}\n")
