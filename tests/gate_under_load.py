"""A whole upload gate as real processes under a constant load, and the book-keeping that shows what was lost."""

import asyncio
import contextlib
import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from ledger.events import EventKind, to_decision
from ledger.ledger import SqliteLedger
from moderation.bundle import Bundle
from moderation.clock import SystemClock
from moderation.decision import Decision
from serving.load.record import DECIDED, Record
from serving.load.schedule import constant
from serving.load.sender import Sender, encode_upload, open_client
from serving.process import HOST, ServingProcess, start_features, start_gateway, start_predictor
from serving.routing import Route, RoutingTable, load_table, write_table
from tests.toy import toy_world

TOKEN = "s3cret-of-the-load"
SLOW_TOKEN = "s3cret-of-the-slow"
_LISTINGS = 64
_IN_FLIGHT = 400


@dataclass
class Gate:
    """A gateway over a folder, and the predictor behind it."""

    home: Path
    bundle: Bundle
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def routing(self) -> Path:
        """The file of the routing table."""
        return self.home / "routing.json"

    @contextlib.contextmanager
    def predictor(self) -> Iterator[ServingProcess]:
        """Run a predictor and route everything to it."""
        with start_predictor(
            self.bundle.folder,
            log_folder=self.home / "logs",
            num_threads=1,
            is_unattested=True,
        ) as process:
            self._route(process.url)
            yield process

    @contextlib.contextmanager
    def features(self) -> Iterator[ServingProcess]:
        """Run the feature stream."""
        environment = {"TIDEGATE__HOME": str(self.home), **self.environment}
        with start_features(log_folder=self.home / "logs", environment=environment) as process:
            yield process

    @contextlib.contextmanager
    def gateway(self) -> Iterator[ServingProcess]:
        """Run a gateway."""
        environment = {
            "TIDEGATE__HOME": str(self.home),
            "TIDEGATE__GATEWAY_TOKENS": f"load:submitter:{TOKEN},slow:submitter:{SLOW_TOKEN}",
            "TIDEGATE__GATEWAY_QUOTA_PER_S": "100000",
            "TIDEGATE__RELEASE_FILE": str(self._contract()),
            **self.environment,
        }
        with start_gateway(
            routing=self.routing, log_folder=self.home / "logs", environment=environment
        ) as process:
            yield process

    def _contract(self) -> Path:
        """Return the shipped contract but for duplicates: every upload of a load is to be judged."""
        shipped = Path("policies/release.yaml").read_text(encoding="utf-8")
        changed = re.sub(r"max_repeats: \d+", "max_repeats: 0", shipped)
        assert changed != shipped
        path = self.home / "release.yaml"
        path.write_text(changed, encoding="utf-8")
        return path

    def _route(self, url: str) -> None:
        revision = load_table(self.routing).revision + 1 if self.routing.exists() else 1
        digest = self.bundle.digest
        table = RoutingTable(
            revision=revision, champion=digest, releases={digest: Route(url=url, weight=1.0)}
        )
        write_table(self.routing, table)

    def decisions(self) -> dict[str, list[Decision]]:
        """Return every decision of the ledger by its submission."""
        found: dict[str, list[Decision]] = {}
        for stored in SqliteLedger(self.home / "ledger.sqlite").read([EventKind.DECISION]):
            decision = to_decision(stored.event)
            found.setdefault(decision.submission_id, []).append(decision)
        return found

    def submissions(self) -> set[str]:
        """Return the ids of every accepted upload in the ledger."""
        ledger = SqliteLedger(self.home / "ledger.sqlite")
        return {stored.event.submission_id for stored in ledger.read([EventKind.SUBMISSION])}


@dataclass
class Run:
    """What came of a load: one outcome per upload, by its submission id."""

    record: Record
    ids: list[str]

    @property
    def accepted(self) -> list[str]:
        """Uploads that were answered with a decision."""
        return [self.ids[n] for n in np.flatnonzero(self.record.outcome == DECIDED)]

    @property
    def outcomes(self) -> Counter[int]:
        """How many uploads ended how."""
        return Counter(self.record.outcome.tolist())

    def slowest_ms(self) -> float:
        """Return how long the slowest accepted upload took from its planned instant."""
        return float(np.nanmax(self.record.latency_ms))


def under_load(
    url: str,
    *,
    rate: float,
    seconds: float,
    events: list[tuple[float, Callable[[], object]]] | None = None,
    beside: Callable[[], Coroutine[Any, Any, None]] | None = None,
    timeout_s: float = 20.0,
) -> Run:
    """Send uploads at a constant rate and do each of `events` at its second.

    Args:
        url: of the gateway.
        rate: uploads a second.
        seconds: for how long.
        events: (second, what happens then), ascending; each runs on a thread of its own.
        beside: runs on the sender's loop until the load ends, e.g. a slow client.
        timeout_s: of one upload.
    """
    return asyncio.run(_under_load(url, rate, seconds, events or [], beside, timeout_s))


async def _under_load(
    url: str,
    rate: float,
    seconds: float,
    events: list[tuple[float, Callable[[], object]]],
    beside: Callable[[], Coroutine[Any, Any, None]] | None,
    timeout_s: float,
) -> Run:
    clock = SystemClock()
    bodies = _bodies()
    schedule = constant(rate, warmup_s=0.0, duration_s=seconds)
    async with open_client(url, TOKEN, max_in_flight=_IN_FLIGHT) as client:
        sender = Sender(client, bodies, clock, max_in_flight=_IN_FLIGHT, timeout_s=timeout_s)
        begin = clock.monotonic()
        other = asyncio.create_task(beside()) if beside else None
        running = asyncio.create_task(sender.run(schedule))
        for at_s, act in events:
            await asyncio.sleep(max(0.0, at_s - (clock.monotonic() - begin)))
            await asyncio.to_thread(act)
        record = await running
        if other:
            other.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await other
    return Run(record, [sender.submission_id(n) for n in range(len(record.outcome))])


def _bodies() -> list[bytes]:
    world = toy_world(_LISTINGS, seed=31)
    return [
        encode_upload(
            row.submission.listing.model_dump(mode="json", exclude_none=True), world.images(row)
        )
        for row in world.rows
    ]


def resend(gate: Gate, gateway: ServingProcess, ids: list[str]) -> list[int]:
    """Send uploads again under the ids that they had, as a seller's client does that got no answer."""
    bodies, numbers = _bodies(), [int(one.rpartition("-")[2]) for one in ids]
    with httpx.Client(base_url=gateway.http_url, timeout=30.0, trust_env=False) as client:
        return [
            client.post(
                "/v1/decisions",
                content=f'{{"submission_id":"{one}",'.encode() + bodies[number % len(bodies)][1:],
                headers={
                    "Authorization": f"Bearer {TOKEN}",
                    "Content-Type": "application/json",
                },
            ).status_code
            for one, number in zip(ids, numbers, strict=True)
        ]


def kill(process: ServingProcess) -> None:
    """End a process at once, as a crash does; only its own pid, which this test started."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)


def freeze(process: ServingProcess) -> None:
    """Stop a process without ending it: its connections stay open and nothing is answered."""
    os.kill(process.pid, signal.SIGSTOP)


def thaw(process: ServingProcess) -> None:
    """Let a frozen process go on."""
    os.kill(process.pid, signal.SIGCONT)


_UNENDED_HEADER = b"POST /v1/decisions HTTP/1.1\r\nHost: gate\r\nX-Slow: "
_UNENDED_BODY = (
    b"POST /v1/decisions HTTP/1.1\r\nHost: gate\r\nContent-Type: application/json\r\n"
    b"Content-Length: 1000000\r\nAuthorization: Bearer " + SLOW_TOKEN.encode() + b"\r\n\r\n{"
)


async def slow_loris(address: tuple[str, int], num: int) -> None:
    """Hold 2 x `num` connections open: half send a request's header a byte at a time, half its body."""
    writers = []
    try:
        for begin in [_UNENDED_HEADER, _UNENDED_BODY] * num:
            _, writer = await asyncio.open_connection(*address)
            writer.write(begin)
            writers.append(writer)
        while True:
            for writer in writers:
                with contextlib.suppress(ConnectionError):
                    writer.write(b"a")
                    await writer.drain()
            await asyncio.sleep(0.2)
    finally:
        for writer in writers:
            writer.close()


def address_of(process: ServingProcess) -> tuple[str, int]:
    """Return host and port of a process's HTTP side."""
    return HOST, int(process.http_url.rpartition(":")[2])
