"""What every benchmark shares: measured stages, one printed table, one JSON file with the facts of the host."""

import json
import multiprocessing
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from moderation.clock import SystemClock
from tidegate.host import commit, host_facts

OUT = Path("build/bench")


@dataclass(frozen=True)
class Target:
    """A goal and what was measured; missing it is said, not hidden, and does not fail the run."""

    name: str
    goal: str
    value: float
    ok: bool


@dataclass
class Bench:
    """One benchmark's rows and targets."""

    name: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def finish(self) -> None:
        """Print the tables and write `build/bench/<name>.json`."""
        say = sys.stdout.write
        say(_table(self.name, self.rows) + "\n")
        if self.targets:
            say(_table(f"{self.name}: targets", [asdict(target) for target in self.targets]) + "\n")
        for note in self.notes:
            say(f"note: {note}\n")
        OUT.mkdir(parents=True, exist_ok=True)
        content = {
            "name": self.name,
            "command": f"make bench NAME={self.name}",
            "arguments": sys.argv[1:],
            "commit": commit(),
            "host": host_facts(),
            "rows": self.rows,
            "targets": [asdict(target) for target in self.targets],
            "notes": self.notes,
        }
        path = OUT / f"{self.name}.json"
        path.write_text(json.dumps(content, indent=1))
        say(f"written to {path}\n")


@dataclass(frozen=True)
class Measured:
    """What a function cost that ran in a process of its own."""

    seconds: float
    """On the wall."""

    cpu_seconds: float
    """Of all its threads, the process's start included: what else the machine does counts little."""

    peak_mb: float
    result: Any


def measure(function: Callable[..., Any], *arguments: Any) -> Measured:
    """Return what `function(*arguments)` cost in a fresh process; its result must be plain data.

    Raises:
        RuntimeError: with the traceback, if the function failed.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        ok, (seconds, cpu_seconds), peak_mb, result = receiver.recv()
    except EOFError as error:
        process.join()
        raise RuntimeError(f"{function.__name__} died with exit code {process.exitcode}") from error
    process.join()
    if not ok:
        raise RuntimeError(result)
    return Measured(seconds, cpu_seconds, peak_mb, result)


def _run(sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    clock = SystemClock()
    begin = clock.monotonic()
    try:
        result, ok = function(*arguments), True
    except Exception:  # the edge of a process: the parent raises it again with this text
        import traceback

        result, ok = traceback.format_exc(), False
    seconds, used = clock.monotonic() - begin, resource.getrusage(resource.RUSAGE_SELF)
    spent = (seconds, used.ru_utime + used.ru_stime)
    sender.send((ok, spent, used.ru_maxrss / 1024, result))


def _table(title: str, rows: list[dict[str, Any]]) -> str:
    """Return rows as a Markdown table, so that documents quote what was printed, unedited."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, *([_text(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    lines.insert(1, ["-" * width for width in widths])
    drawn = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
    return "\n".join([f"### {title}", "", *drawn, ""])


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
