"""Real processes that prepare: as the scorer does, whatever a listing holds, and after one of them has ended."""

import asyncio
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from prometheus_client import REGISTRY, generate_latest

from moderation.bundle import Bundle
from moderation.clock import SystemClock
from moderation.errors import PermanentError
from moderation.features import FEATURE_NAMES
from moderation.preparing import Preparer
from moderation.scoring import PreparedItem, Scorer, ScoringItem
from serving.alerts import alerts
from serving.predictor.parts import joined, num_parts, part
from serving.predictor.preparer import READY, answer, frame, packed
from serving.predictor.preparing import (
    Outcome,
    PreparingFailed,
    PreparingProcesses,
    read_outcomes,
)
from tests.alert_rules import fires
from tests.kept import SERVING

PATIENCE_S = 30


def _jpeg(side: int, colour: str = "red") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(stream, "JPEG")
    return stream.getvalue()


def _slow() -> ScoringItem:
    """A listing that takes seconds to prepare."""
    stream = io.BytesIO()
    Image.new("RGB", (6_000, 6_000), "blue").save(stream, "PNG")
    return ScoringItem("slow", "", [stream.getvalue()] * 8)


LISTINGS = [
    ScoringItem("red lamp", "as good as new", [_jpeg(90), _jpeg(33, "green")]),
    ScoringItem("no photo"),
    ScoringItem("", "", [_jpeg(64)]),
    ScoringItem("", ""),
    ScoringItem("broken", "", [b"no image", _jpeg(64), _jpeg(64)[:200]]),
    ScoringItem("p\u200bi\u0455tol \u202eevil \U0001f52b", "x" * 5_000),
    ScoringItem("half \ud83d a character"),
    ScoringItem("known", behaviour=np.ones(3, np.float32), behaviour_status=np.zeros(3, np.int8)),
]


def _broken() -> None:
    raise AssertionError("called only where nothing starts")


@pytest.fixture
def processes(tiny_bundle: Bundle) -> Iterator[PreparingProcesses]:
    processes = PreparingProcesses(tiny_bundle.folder, 1, on_broken=_broken)
    yield processes
    processes.close()


async def _outcomes(
    processes: PreparingProcesses, items: Sequence[ScoringItem]
) -> Sequence[Outcome]:
    found: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()
    processes.submit(items, found.set_result)
    async with asyncio.timeout(PATIENCE_S):
        return await found


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.01)


def _is_same(one: PreparedItem, other: PreparedItem) -> bool:
    pairs = [
        (one.tokens_T, other.tokens_T),
        (one.behaviour, other.behaviour),
        (one.behaviour_status, other.behaviour_status),
        *zip(one.images, other.images, strict=True),
    ]
    return one.ngram == other.ngram and all(
        left is right is None
        or (left is not None and right is not None and left.dtype == right.dtype)
        and np.array_equal(left, right)
        for left, right in pairs
    )


async def test_listings_are_prepared_as_the_scorer_does(
    processes: PreparingProcesses, tiny_bundle: Bundle
) -> None:
    scorer = Scorer(tiny_bundle)
    for outcome, item in zip(await _outcomes(processes, LISTINGS), LISTINGS, strict=True):
        assert outcome.error is None
        assert outcome.seconds > 0
        assert outcome.prepared is not None
        assert _is_same(outcome.prepared, scorer.prepare(item))


class _Moody:
    """Prepares what it likes."""

    def __init__(self, preparer: Preparer) -> None:
        self._preparer = preparer

    def prepare(self, item: ScoringItem) -> PreparedItem:
        if item.title == "secret":
            raise RuntimeError(f"no: {item.title}")
        return self._preparer.prepare(item)


def test_a_listing_that_cannot_be_prepared_fails_alone(tiny_bundle: Bundle) -> None:
    preparer = Preparer.of_bundle(tiny_bundle.folder)
    items = [LISTINGS[0], ScoringItem("secret", "", [_jpeg(64)]), LISTINGS[0]]
    content = answer(cast(Preparer, _Moody(preparer)), items, SystemClock())
    first, bad, last = read_outcomes(content, items)
    assert str(bad.error) == "the listing cannot be prepared: RuntimeError"
    expected = preparer.prepare(LISTINGS[0])
    for outcome in (first, last):
        assert outcome.prepared is not None
        assert _is_same(outcome.prepared, expected)


async def test_what_is_larger_than_a_sockets_buffer_comes_whole(
    processes: PreparingProcesses, tiny_bundle: Bundle
) -> None:
    noise = np.random.default_rng(3).integers(0, 255, (900, 900, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    items = [ScoringItem("large", "", [stream.getvalue()] * 8)] * 2
    expected = Scorer(tiny_bundle).prepare(items[0])
    for outcome in await _outcomes(processes, items):
        assert outcome.prepared is not None
        assert _is_same(outcome.prepared, expected)


async def test_a_process_has_room_for_what_it_is_at_and_what_comes_next(
    processes: PreparingProcesses,
) -> None:
    answers = [asyncio.create_task(_outcomes(processes, LISTINGS[:1])) for _ in range(2)]
    await asyncio.sleep(0)
    assert not processes.has_room()
    assert not processes.has_room(is_urgent=False)
    await asyncio.gather(*answers)
    assert processes.has_room()
    assert processes.has_room(is_urgent=False), "the only process is taken when it is idle"


async def test_what_is_not_urgent_leaves_a_process_to_what_is(tiny_bundle: Bundle) -> None:
    processes = PreparingProcesses(tiny_bundle.folder, 2, on_broken=_broken)
    one = asyncio.create_task(_outcomes(processes, LISTINGS[:1]))
    await asyncio.sleep(0)
    assert processes.has_room()
    assert not processes.has_room(is_urgent=False)
    await one
    assert processes.has_room(is_urgent=False)
    processes.close()


async def test_a_listing_in_parts_is_the_listing_as_a_whole(
    processes: PreparingProcesses, tiny_bundle: Bundle
) -> None:
    noise = np.random.default_rng(3).integers(0, 255, (3, 90, 60, 3), np.uint8)
    photos = [_png(pixels) for pixels in noise]
    item = ScoringItem("three", "of them", photos, np.ones(len(FEATURE_NAMES), np.float32))
    for given in (item, replace(item, images=photos[:1]), replace(item, images=())):
        expected = Scorer(tiny_bundle).prepare(given)
        parts = [part(given, place) for place in range(num_parts(given))]
        found = [one.prepared for one in await _outcomes(processes, parts)]
        assert _is_same(joined([one for one in found if one is not None]), expected)


def _png(pixels_HWC: npt.NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels_HWC).save(stream, "PNG")
    return stream.getvalue()


async def test_nothing_is_lost_when_a_process_is_killed(processes: PreparingProcesses) -> None:
    [killed] = processes.pids
    before = REGISTRY.get_sample_value("tidegate_predictor_preparers_ended_total") or 0
    at_work = asyncio.create_task(_outcomes(processes, [_slow()]))
    waits = asyncio.create_task(_outcomes(processes, LISTINGS))
    await asyncio.sleep(0.3)
    os.kill(killed, signal.SIGKILL)
    assert [one.error for one in [*await at_work, *await waits]] == [None] * (1 + len(LISTINGS))
    assert processes.pids != [killed]
    assert REGISTRY.get_sample_value("tidegate_predictor_preparers_ended_total") == before + 1


async def test_a_process_that_does_not_answer_is_ended(tiny_bundle: Bundle) -> None:
    """A process that is stopped stands for a decoder that never comes to an end."""
    processes = PreparingProcesses(tiny_bundle.folder, 1, on_broken=_broken, most_s=3.0)
    [stopped] = processes.pids
    os.kill(stopped, signal.SIGSTOP)
    outcomes = await _outcomes(processes, LISTINGS)
    assert [one.error for one in outcomes] == [None] * len(LISTINGS)
    assert processes.pids != [stopped]
    processes.close()


async def test_a_listing_that_takes_too_long_twice_fails_alone(tiny_bundle: Bundle) -> None:
    processes = PreparingProcesses(tiny_bundle.folder, 1, on_broken=_broken, most_s=0.5)
    first, slow, last = await _outcomes(processes, [LISTINGS[1], _slow(), LISTINGS[3]])
    assert str(slow.error) == "the listing ended two processes that prepared it"
    assert (first.error, last.error) == (None, None)
    processes.close()


async def test_a_process_has_its_whole_time_for_each_task(tiny_bundle: Bundle) -> None:
    processes = PreparingProcesses(tiny_bundle.folder, 1, on_broken=_broken, most_s=1.0)
    [pid] = processes.pids
    for _ in range(6):
        await _outcomes(processes, LISTINGS[:1])
        await asyncio.sleep(0.25)
    assert processes.pids == [pid]
    processes.close()


async def test_processes_that_end_alert(processes: PreparingProcesses) -> None:
    [rule] = [rule for rule in alerts(SERVING) if rule.name == "TidegatePreparersEnd"]
    await _outcomes(processes, LISTINGS[:1])
    before = generate_latest().decode()
    assert not fires(rule.expression, before, before)
    [killed] = processes.pids
    os.kill(killed, signal.SIGKILL)
    await _until(lambda: processes.pids != [killed])
    assert fires(rule.expression, before, generate_latest().decode())


async def test_a_listing_that_ends_two_processes_fails_alone(processes: PreparingProcesses) -> None:
    """The slow one stands for bytes that bring a decoder down: its process is killed whenever it is at it."""
    answer = asyncio.create_task(_outcomes(processes, [LISTINGS[0], _slow(), LISTINGS[1]]))
    await asyncio.sleep(0.3)
    [first] = processes.pids
    os.kill(first, signal.SIGKILL)
    await _until(lambda: processes.pids != [first])
    [second] = processes.pids
    await asyncio.sleep(1.5)  # it is ready, has answered the first, and is at the slow one
    os.kill(second, signal.SIGKILL)
    good, slow, also_good = await answer
    assert (good.error, also_good.error) == (None, None)
    assert isinstance(slow.error, PreparingFailed)
    assert (await _outcomes(processes, LISTINGS))[0].error is None


@pytest.mark.parametrize(
    "said",
    [
        frame(packed([], [])),
        frame(packed({}, [])),
        frame(b"short"),
        (2**60).to_bytes(8, "little"),
    ],
)
async def test_an_answer_that_is_none_ends_its_process(
    processes: PreparingProcesses, said: bytes
) -> None:
    [first] = processes.pids
    await _outcomes(processes, LISTINGS[:1])
    answer = asyncio.create_task(_outcomes(processes, LISTINGS))
    await asyncio.sleep(0)
    processes._processes[0]._read[:0] = said
    assert [one.error for one in await answer] == [None] * len(LISTINGS)
    assert processes.pids != [first]


async def test_an_answer_that_nobody_asked_for_ends_its_process(
    processes: PreparingProcesses,
) -> None:
    [first] = processes.pids
    process = processes._processes[0]
    await _outcomes(processes, LISTINGS[:1])
    process.tasks.clear()
    answer = asyncio.create_task(_outcomes(processes, LISTINGS[:1]))
    await asyncio.sleep(0)
    process.tasks.clear()
    await _until(lambda: processes.pids != [first])
    answer.cancel()


def test_a_folder_without_towers_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="did not start"):
        PreparingProcesses(tmp_path, 1, on_broken=_broken)


async def test_every_listing_fails_when_no_process_starts_any_more(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    folder, told = Path(shutil.copytree(tiny_bundle.folder, tmp_path / "bundle")), list[str]()
    processes = PreparingProcesses(folder, 1, on_broken=lambda: told.append("broken"))
    shutil.rmtree(folder)
    answer = asyncio.create_task(_outcomes(processes, [_slow()]))
    await asyncio.sleep(0.3)
    os.kill(processes.pids[0], signal.SIGKILL)
    [outcome] = await answer
    assert isinstance(outcome.error, PreparingFailed)
    assert told == ["broken"]
    assert processes.has_room(), "what comes is told at once, and does not wait"
    [after] = await _outcomes(processes, LISTINGS[:1])
    assert isinstance(after.error, PreparingFailed)
    processes.close()


async def test_every_listing_fails_when_the_system_starts_no_process(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = list[str]()
    processes = PreparingProcesses(tiny_bundle.folder, 1, on_broken=lambda: told.append("broken"))
    monkeypatch.setattr(sys, "executable", "/no/such/program")
    found = list[Sequence[Outcome]]()
    for _ in range(2):
        processes.submit([_slow()], found.append)
    os.kill(processes.pids[0], signal.SIGKILL)
    await _until(lambda: len(found) == 2)
    await asyncio.sleep(0.1)
    assert [isinstance(one.error, PreparingFailed) for [one] in found] == [True] * 2, "told once"
    assert told == ["broken"]
    processes.close()


def test_a_process_outlives_signals_and_ends_with_its_socket(tiny_bundle: Bundle) -> None:
    ours, other = socket.socketpair()
    module = [sys.executable, "-m", "serving.predictor.preparer"]
    with other:
        child = subprocess.Popen(
            [*module, "--bundle", str(tiny_bundle.folder), "--socket", str(other.fileno())],
            pass_fds=(other.fileno(),),
        )
    ours.settimeout(PATIENCE_S)
    assert ours.recv(64) == frame(READY)
    child.send_signal(signal.SIGTERM)
    child.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.3)
    ours.close()
    assert child.wait(PATIENCE_S) == 0


@pytest.mark.parametrize(
    "facts",
    [
        {},
        [{}],
        [{"prepared": {}}],
        [{"prepared": {"tokens": 4, "images": [], "ngram": ["", "", []]}}],
        [{"prepared": {"tokens": None, "images": [[9, 9, 3]], "ngram": ["", "", []]}}],
        [{"prepared": {"tokens": None, "images": [], "ngram": "no"}}],
        [{"prepared": {"tokens": 2**62, "images": [], "ngram": ["", "", []]}}],
        [{"prepared": None, "error": "", "begin_s": "soon", "seconds": 1}],
        [{"prepared": {"tokens": -1, "images": [], "ngram": ["", "", []]}}],
    ],
)
def test_an_answer_that_lies_is_refused(facts: object) -> None:
    with pytest.raises((ValueError, KeyError, TypeError, OverflowError)):
        read_outcomes(packed(facts, [b"12345678"]), LISTINGS[1:2])
