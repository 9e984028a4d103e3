"""A load run on a gateway: what is sent, the report of it, and the limits that decide the exit code."""

import asyncio
import json
import resource
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from components.home import Home
from moderation.clock import SystemClock
from moderation.errors import PermanentError
from moderation.settings import settings
from serving.garbage import freeze_loaded
from serving.load.figures import (
    Figures,
    Percentiles,
    Verdict,
    figures_of,
    judge,
    parse_limits,
    status_name,
)
from serving.load.record import Record
from serving.load.schedule import Schedule, constant, poisson
from serving.load.sender import Sender, encode_upload, open_client
from tidegate.console import console, say
from tidegate.deciding import Listed, read_listed, running_gateway
from tidegate.host import commit, host_facts
from tidegate.serving import admin_token, own_tokens
from tidegate.world import unseen_listings

# Listings are held in memory as they are sent; more of them make a run no truer.
_MAX_LISTINGS: Final = 1000
# Files that this process needs beside its connections.
_OTHER_FILES: Final = 64
# From this share of one core on, what the sender measures may be itself.
_BUSY: Final = 0.85

_KEPT: Final = 0
_EXCEEDED: Final = 1
_NOT_MEASURED: Final = 2


@dataclass(frozen=True)
class Run:
    """What is asked for."""

    rate: float
    """Uploads per second."""

    duration_s: float
    """Seconds that count, after the warm-up."""

    warmup_s: float
    poisson_seed: int | None
    """Seed of random instants; evenly spaced ones if None."""

    max_in_flight: int
    timeout_s: float

    def schedule(self) -> Schedule:
        """Return when each upload is due."""
        if self.poisson_seed is None:
            return constant(self.rate, warmup_s=self.warmup_s, duration_s=self.duration_s)
        return poisson(
            self.rate, warmup_s=self.warmup_s, duration_s=self.duration_s, seed=self.poisson_seed
        )


def run_load(
    run: Run, files: Sequence[Path], *, limits: Sequence[str], url: str | None, out: Path | None
) -> int:
    """Send uploads, show and write the report; return 0, 1 past a limit, or 2 if nothing was decided.

    Raises:
        TemporaryError: if the gateway cannot be reached.
        PermanentError: if an option is wrong, the gateway refuses caller or listing, or `out` cannot be written.
    """
    wanted, schedule = parse_limits(limits), run.schedule()
    home = Home(settings().home)
    address = url or running_gateway(home)
    bodies = [encode_upload(one.listing, one.images) for one in _listings(files, home)]
    _allow_files(run.max_in_flight + _OTHER_FILES)
    token = _token(settings().gateway_tokens.get_secret_value() or own_tokens(home))
    record, busy = asyncio.run(_send(run, schedule, address, token, bodies))
    figures = figures_of(record)
    verdicts = judge(figures, wanted)
    notes = _notes(figures, busy, len(bodies))
    show(figures, verdicts, notes)
    if out is not None:
        _write(out, {**figures.row(), "sender busy": busy}, verdicts, notes)
    return _exit_code(figures, verdicts)


async def _send(
    run: Run, schedule: Schedule, url: str, token: str, bodies: Sequence[bytes]
) -> tuple[Record, float]:
    """Return what came of each upload, and which share of a core sending took."""
    clock, loop = SystemClock(), asyncio.get_running_loop()
    async with open_client(url, token, max_in_flight=run.max_in_flight) as client:
        sender = Sender(
            client, bodies, clock, max_in_flight=run.max_in_flight, timeout_s=run.timeout_s
        )
        await sender.check()
        freeze_loaded()  # a pause of this process would count as the gateway's
        say(
            f"{schedule.planned_s.size:,} uploads of {len(bodies):,} listings to {url}, {run.rate:g} a second for "
            f"{run.warmup_s:g} s of warm-up and {run.duration_s:g} s that count; Ctrl-C ends early"
        )
        loop.add_signal_handler(signal.SIGINT, sender.stop)
        try:
            used_s = time.process_time()
            record = await sender.run(schedule)
            busy = (time.process_time() - used_s) / max(record.seconds, 1e-9)
        finally:
            loop.remove_signal_handler(signal.SIGINT)
    return record, busy


def _listings(files: Sequence[Path], home: Home) -> list[Listed]:
    if files:
        return [read_listed(file) for file in files]
    found = unseen_listings(home)[:_MAX_LISTINGS]
    if not found:
        raise PermanentError(
            f"{home.unseen} holds no listings; run `tidegate demo` in this home, or name some with --listing"
        )
    return found


def _token(tokens: str) -> str:
    """Return the token of the first submitter: uploads carry no evidence then, as a seller's do not."""
    entries = [entry.strip().split(":", 2) for entry in tokens.split(",")]
    submitters = [
        token for _, role, token in (e for e in entries if len(e) == 3) if role == "submitter"
    ]
    return submitters[0] if submitters else admin_token(tokens)


def _allow_files(wanted: int) -> None:
    """Let this process hold one connection per upload in flight: a refusal would read as the gateway's failure.

    Raises:
        PermanentError: if the system allows fewer.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise PermanentError(
            f"{wanted} open files are needed and {hard} allowed; lower --max-in-flight, or raise `ulimit -Hn`"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _notes(figures: Figures, busy: float, num_listings: int) -> list[str]:
    notes = figures.notes()
    if busy > _BUSY:
        notes.append(
            f"the sender took {busy:.0%} of one core: latencies may be its own; lower the rate, or run several"
        )
    if figures.sent > num_listings:
        notes.append(
            f"{num_listings:,} listings were sent {figures.sent / num_listings:.0f} times each, under fresh ids"
        )
    return notes


def show(figures: Figures, verdicts: Sequence[Verdict], notes: Sequence[str]) -> None:
    """Print the report of a run."""
    say(
        f"rate       {figures.rate:g} a second asked, {figures.sent_rate:.1f} sent, {figures.decided_rate:.1f} decided"
    )
    say(
        f"uploads    {figures.due:,} due in {figures.seconds:.1f} s, {figures.sent:,} sent, "
        f"{figures.dropped:,} dropped by the sender, at most {figures.peak_in_flight:,} in flight"
    )
    answers = {status_name(status): count for status, count in figures.statuses.items()}
    _say_counts("answers", answers, figures.sent)
    _say_counts("errors", figures.errors, figures.sent)
    _say_counts("tiers", figures.tiers, figures.decided)
    _say_counts("fallbacks", {"without a model": figures.fallbacks}, figures.decided)
    console.print(_latencies(figures))
    for note in notes:
        say(f"note       {note}", style="yellow", markup=False)
    for verdict in verdicts:
        value = "never" if verdict.value is None else f"{verdict.value:.4g}"
        said = "[green]kept[/]" if verdict.ok else "[bold red]exceeded[/]"
        say(f"limit      {verdict.name} {said}: {value}, limit {verdict.goal}")
    if not figures.decided:
        say("nothing was measured: no upload was decided", style="bold red")


def _say_counts(name: str, counts: Mapping[str, int], of: int) -> None:
    parts = [f"{what} {count:,} ({count / max(of, 1):.2%})" for what, count in counts.items()]
    say(f"{name:<10} {', '.join(parts) or 'none'}", markup=False)


def _latencies(figures: Figures) -> Table:
    rows: dict[str, Percentiles] = {
        "decisions": figures.decided_ms,
        "all due, undecided as never": figures.due_ms,
        "lateness of the sender": figures.late_ms,
    }
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("ms from the planned instant")
    for name in figures.due_ms:
        table.add_column(name, justify="right")
    for title, values in rows.items():
        cells = ["never" if value is None else f"{value:.1f}" for value in values.values()]
        table.add_row(title, *cells)
    return table


def _write(
    path: Path, row: dict[str, Any], verdicts: Sequence[Verdict], notes: Sequence[str]
) -> None:
    content = {
        "name": "load",
        "command": "tidegate load",
        "arguments": sys.argv[1:],
        "commit": commit(),
        "host": host_facts(),
        "rows": [row],
        "targets": [asdict(verdict) for verdict in verdicts],
        "notes": notes,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    except OSError as error:
        raise PermanentError(f"--out {path}: {error}; the figures are printed above") from error
    say(f"written to {path}")


def _exit_code(figures: Figures, verdicts: Sequence[Verdict]) -> int:
    if not figures.due:
        return _NOT_MEASURED
    if not all(verdict.ok for verdict in verdicts):
        return _EXCEEDED
    return _KEPT if figures.decided else _NOT_MEASURED
