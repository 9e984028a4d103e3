"""Group commit: one flush for many callers, each with its own answer."""

import sqlite3
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ledger.events import Event, EventKind, from_decision
from ledger.group import GroupWriter, WriterClosed
from ledger.keys import KeyRing
from ledger.ledger import LedgerConflict, LedgerUnavailable, SqliteLedger, TraceTaken
from moderation.errors import PermanentError
from tests.decided import a_decision

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def _event(name: str, seller_id: str | None = "seller", **payload: object) -> Event:
    return Event(
        f"report:{name}", EventKind.REPORT, name, seller_id, NOON, NOON, {"n": name} | payload
    )


def _decided(name: str, trace: str) -> Event:
    return from_decision(a_decision(name, NOON, trace_id=trace), recorded_at=NOON, seller_id="s")


@pytest.fixture
def ledger(tmp_path: Path) -> SqliteLedger:
    return SqliteLedger(tmp_path / "ledger.sqlite", busy_s=0.05)


def _ids(ledger: SqliteLedger) -> list[str]:
    return [stored.event.event_id for stored in ledger.read()]


def test_what_is_appended_in_a_group_is_there_in_order(
    ledger: SqliteLedger, tmp_path: Path
) -> None:
    """Each of several threads finds its own events, in its order, from another process's point of view."""
    writer = GroupWriter("test", ledger.append_each)

    def caller(k: int) -> list[int]:
        return [writer.write([_event(f"{k}-{n}", f"seller-{k}")]) for n in range(20)]

    with ThreadPoolExecutor(8) as pool:
        assert all(counts == [1] * 20 for counts in pool.map(caller, range(8)))
    writer.close()
    found = _ids(SqliteLedger(tmp_path / "ledger.sqlite"))
    assert len(found) == 160
    for k in range(8):
        mine = [one for one in found if one.startswith(f"report:{k}-")]
        assert mine == [f"report:{k}-{n}" for n in range(20)]


def test_items_that_come_while_a_group_is_written_go_together() -> None:
    groups: list[list[str]] = []
    is_writing, may_go_on = threading.Event(), threading.Event()

    def write_each(items: Sequence[str]) -> list[int | Exception]:
        groups.append(list(items))
        is_writing.set()
        assert may_go_on.wait(10)
        return [1] * len(items)

    writer = GroupWriter("test", write_each, max_items=3)
    first = writer.submit("a")
    assert is_writing.wait(10), "the first waits for nobody"
    rest = [writer.submit(name) for name in "bcdef"]
    assert rest[1].cancel(), "what is not being written can be withdrawn"
    assert not first.cancel()
    may_go_on.set()
    assert [one.result(10) for one in (first, rest[0], *rest[2:])] == [1] * 5
    assert groups == [["a"], ["b", "d"], ["e", "f"]]
    writer.close()
    with pytest.raises(WriterClosed):
        writer.submit("late")


def test_one_refused_batch_leaves_its_mates_alone(ledger: SqliteLedger) -> None:
    ledger.append([_event("taken"), _decided("s1", "a" * 32)])
    outcomes = ledger.append_each(
        [
            [_event("one")],
            [_event("two"), _event("taken", more=1)],
            [_decided("s2", "a" * 32)],
            [_event("three"), _event("one")],
            [_event("nan", value=float("nan"))],
            [_decided("s3", "b" * 32), _event("four", None)],
        ]
    )
    one, conflict, taken, three, nan, last = outcomes
    assert (one, three, last) == (1, 1, 2)
    assert isinstance(conflict, LedgerConflict)
    assert isinstance(taken, TraceTaken)
    assert isinstance(nan, PermanentError)
    names = [
        "report:taken",
        "decision:s1",
        "report:one",
        "report:three",
        "decision:s3",
        "report:four",
    ]
    assert _ids(ledger) == names, "a batch is kept whole or not at all"


def test_a_group_makes_its_keys_in_one_transaction(
    ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    of = KeyRing.of

    def counted(ring: KeyRing, sellers: Sequence[str]) -> object:
        asked.append(len([one for one in set(sellers) if ring.find(one) is None]))
        return of(ring, sellers)

    monkeypatch.setattr(KeyRing, "of", counted)
    ledger.append_each([[_event(f"e{n}", f"seller-{n}")] for n in range(5)])
    assert [number for number in asked if number] == [5]


def test_everybody_hears_when_nothing_can_be_written(ledger: SqliteLedger, tmp_path: Path) -> None:
    writer = GroupWriter("test", ledger.append_each)
    holder = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    futures: list[Future[int]] = [writer.submit([_event(name)]) for name in "ab"]
    for future in futures:
        with pytest.raises(LedgerUnavailable, match="locked"):
            future.result(10)
    holder.execute("ROLLBACK")
    holder.close()
    assert writer.write([_event("a")]) == 1
    assert writer.write([replace(_event("a"), recorded_at=NOON)]) == 0
    writer.close()


def test_a_full_file_is_temporary_and_loses_nothing(ledger: SqliteLedger) -> None:
    """SQLite itself says that the file is full, as it does where the disk is."""
    ledger.append([_event("before")])
    connection = ledger._connection()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(LedgerUnavailable, match="full"):
        ledger.append_each([[_event("small")], [_event("large", text="x" * 100_000)]])
    assert _ids(ledger) == ["report:before"]
    connection.execute("PRAGMA max_page_count = 1000000")
    assert ledger.append_each([[_event("small")]]) == [1]
