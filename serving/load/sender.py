"""Sends uploads to a gateway at their planned instants and never waits for an answer before the next one.

A latency is counted from the planned instant: when the gateway or this sender stalls, all uploads that were due
meanwhile show it, as they would to sellers. A tool that waits for each answer would send, and measure, less instead
(coordinated omission).

Source:
    Gil Tene, "How NOT to Measure Latency" (2015), and his wrk2, from which constant rate and planned instants are.
"""

import asyncio
import base64
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import httpx
import orjson

from moderation.clock import Clock
from moderation.decision import MODEL_UNAVAILABLE
from moderation.errors import PermanentError, TemporaryError
from serving.load.record import DECIDED, Ended, Record
from serving.load.schedule import Schedule

# The pool looks at every idle connection for every upload: many would make the sender slow after a stall.
_MAX_IDLE: Final = 100
# Shorter than the 5 s after which uvicorn closes an idle connection: none is picked while it closes.
_IDLE_S: Final = 2.0
_TOO_MANY_REQUESTS: Final = 429

Sleep = Callable[[float], Awaitable[Any]]


def open_client(url: str, token: str, *, max_in_flight: int) -> httpx.AsyncClient:
    """Return a client that opens as many connections as uploads may be in flight.

    Raises:
        PermanentError: if `url` is none.
    """
    try:
        return httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=None,  # the sender has its own, over the whole upload
            limits=httpx.Limits(
                max_connections=max_in_flight,
                max_keepalive_connections=min(_MAX_IDLE, max_in_flight),
                keepalive_expiry=_IDLE_S,
            ),
            trust_env=False,
        )
    except httpx.InvalidURL as error:
        raise PermanentError(f"{url}: {error}; give the gateway's address as http://...") from error


def encode_upload(listing: Mapping[str, Any], images: Sequence[bytes]) -> bytes:
    """Return the JSON body of an upload, without the submission id that each sending gets."""
    texts = [base64.b64encode(data).decode() for data in images]
    return orjson.dumps({"listing": dict(listing), "images": texts})


class Sender:
    """Sends one schedule.

    Args:
        client: of the gateway; owned by the caller.
        bodies: of the uploads, from `encode_upload`; sent in turn, each time under a fresh submission id.
        max_in_flight: uploads beyond it are dropped, and counted.
        timeout_s: seconds that an upload may take from its sending on.
        clock: measures; `sleep` waits in the same time.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        bodies: Sequence[bytes],
        clock: Clock,
        *,
        max_in_flight: int,
        timeout_s: float,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._client, self._bodies = client, bodies
        self._max_in_flight, self._timeout_s = max_in_flight, timeout_s
        self._clock, self._sleep = clock, sleep
        self._run_id = uuid.uuid4().hex
        self._in_flight: set[asyncio.Task[None]] = set()
        self._dispatching: asyncio.Task[None] | None = None
        self._began = 0.0

    async def check(self) -> None:
        """Send one upload ahead, which no figure counts; a gateway that is busy or failing passes.

        Raises:
            TemporaryError: if the gateway cannot be reached.
            PermanentError: if it refuses the caller or the listing, with its reason.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._client.send(self._request(f"load-{self._run_id}-check", 0))
        except TimeoutError:
            return
        except httpx.RequestError as error:
            raise TemporaryError(
                f"the gateway at {self._client.base_url} does not answer: {error}; start it with `tidegate serve`"
            ) from error
        if response.is_client_error and response.status_code != _TOO_MANY_REQUESTS:
            raise PermanentError(
                f"the gateway answered {response.status_code} to the first upload: {response.text[:300]}"
            )

    async def run(self, schedule: Schedule) -> Record:
        """Send every upload at its instant, wait for the last answers, and return what came of each."""
        record = Record.of(schedule)
        # Ids that were sent before would get their recorded decisions again.
        self._run_id = uuid.uuid4().hex
        self._began = self._clock.monotonic()
        async with asyncio.TaskGroup() as group:
            self._dispatching = group.create_task(self._dispatch(record, group))
        record.seconds = self._clock.monotonic() - self._began
        return record

    def submission_id(self, number: int) -> str:
        """Return the id under which the newest run sent an upload."""
        return f"load-{self._run_id}-{number}"

    def stop(self) -> None:
        """End the sending and wait for answers; called again, give up what still waits."""
        if self._dispatching is not None and not self._dispatching.done():
            self._dispatching.cancel()
            return
        for task in self._in_flight:
            task.cancel()

    async def _dispatch(self, record: Record, group: asyncio.TaskGroup) -> None:
        try:
            for number, planned_s in enumerate(record.schedule.planned_s.tolist()):
                due = self._began + planned_s
                # Also without a wait the loop gets its turn, or a late sender would never read an answer.
                await self._sleep(max(due - self._clock.monotonic(), 0.0))
                self._start(number, due, record, group)
        except asyncio.CancelledError:
            record.stopped_s = self._clock.monotonic() - self._began
            raise

    def _start(self, number: int, due: float, record: Record, group: asyncio.TaskGroup) -> None:
        if len(self._in_flight) >= self._max_in_flight:
            record.outcome[number] = Ended.DROPPED
            return
        record.outcome[number] = Ended.IN_FLIGHT
        task = group.create_task(self._upload(number, due, record))
        self._in_flight.add(task)
        task.add_done_callback(self._in_flight.discard)
        record.peak_in_flight = max(record.peak_in_flight, len(self._in_flight))

    async def _upload(self, number: int, due: float, record: Record) -> None:
        record.late_ms[number] = (self._clock.monotonic() - due) * 1e3
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._client.send(
                    self._request(self.submission_id(number), number)
                )
        except TimeoutError:
            record.outcome[number] = Ended.TIMED_OUT
        except httpx.ConnectError:
            record.outcome[number] = Ended.NOT_CONNECTED
        except httpx.RequestError:
            record.outcome[number] = Ended.BROKEN_OFF
        else:
            record.latency_ms[number] = (self._clock.monotonic() - due) * 1e3
            _keep_answer(number, response, record)

    def _request(self, submission_id: str, number: int) -> httpx.Request:
        body = self._bodies[number % len(self._bodies)]
        identity = f'{{"submission_id":"{submission_id}",'.encode()
        return self._client.build_request(
            "POST",
            "/v1/decisions",
            content=identity + body[1:],
            headers={"Content-Type": "application/json"},
        )


def _keep_answer(number: int, response: httpx.Response, record: Record) -> None:
    if response.status_code != DECIDED:
        record.outcome[number] = response.status_code
        return
    try:
        content = orjson.loads(response.content)
        tier, codes = str(content["tier"]), [reason["code"] for reason in content["reasons"]]
    except (ValueError, KeyError, TypeError):
        record.outcome[number] = Ended.UNREADABLE
        return
    record.keep_decision(number, tier, is_fallback=MODEL_UNAVAILABLE in codes)
