import multiprocessing
import sqlite3
import threading
import tracemalloc
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ledger.erasures import Belongings
from ledger.events import Event, EventKind, StoredEvent, from_decision, from_submission
from ledger.ledger import LedgerConflict, LedgerUnavailable, SqliteLedger, TraceTaken
from moderation.decision import Decision
from moderation.errors import PermanentError
from moderation.listing import Listing, Submission
from tests.decided import a_decision

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def _event(number: int, **payload: object) -> Event:
    at = NOON + timedelta(seconds=number)
    kind = EventKind.REPORT if number % 2 else EventKind.SUBMISSION
    return Event(f"event:{number}", kind, f"s{number}", "seller", at, at, {"n": number, **payload})


def _all_of(events: Iterable[StoredEvent]) -> Belongings:
    return Belongings(tuple(stored.sequence for stored in events))


def _submission(number: int = 1) -> Submission:
    listing = Listing(listing_id=f"l{number}", seller_id="seller", title="Näkki 🔫 g1ock")
    return Submission(submission_id=f"s{number}", listing=listing, submitted_at=NOON)


def _decision(number: int = 1, trace_id: str = "a" * 32) -> Decision:
    return a_decision(f"s{number}", NOON, decision_id=f"d{number}", trace_id=trace_id)


@pytest.fixture
def ledger(tmp_path: Path) -> SqliteLedger:
    return SqliteLedger(tmp_path / "ledger.sqlite")


def test_ledger_reads_in_order_when_appended(ledger: SqliteLedger) -> None:
    events = [_event(n) for n in range(2_500)]
    assert ledger.append(events) == 2_500
    stored = list(ledger.read())
    assert [s.event for s in stored] == events
    assert [s.sequence for s in stored] == list(range(1, 2_501))


def test_last_sequence_follows_when_appended(ledger: SqliteLedger) -> None:
    assert ledger.last_sequence() == 0
    ledger.append([_event(1), _event(2)])
    assert ledger.last_sequence() == 2


def test_newest_is_by_time_and_not_by_place(ledger: SqliteLedger) -> None:
    assert ledger.newest_at([EventKind.REPORT]) is None
    late, early, other = _event(7), _event(3), _event(8)
    assert (
        (late.kind, early.kind) == (EventKind.REPORT, EventKind.REPORT) != (other.kind, other.kind)
    )
    ledger.append([late, early, other])
    assert ledger.newest_at([EventKind.REPORT]) == late.occurred_at
    assert ledger.newest_at([late.kind, other.kind]) == other.occurred_at
    assert ledger.newest_at([]) is None


def test_newest_is_the_newest_that_can_be_read(ledger: SqliteLedger) -> None:
    at = NOON + timedelta(days=9)
    gone = [
        Event(f"gone:{n}", EventKind.REPORT, "s", "erased", at, at, {"n": n}) for n in range(20)
    ]
    kept = [_event(1), _event(3)]
    ledger.append([*kept, *gone])
    assert ledger.newest_at([EventKind.REPORT]) == at
    ledger.erase("erased", _all_of, NOON)
    assert ledger.newest_at([EventKind.REPORT]) == kept[1].occurred_at
    ledger.erase("seller", _all_of, NOON)
    assert ledger.newest_at([EventKind.REPORT]) is None


def test_ledger_filters_when_asked(ledger: SqliteLedger) -> None:
    ledger.append(_event(n) for n in range(10))
    reports = ledger.read([EventKind.REPORT], after_sequence=4, until=NOON + timedelta(seconds=7))
    assert [s.event.payload["n"] for s in reports] == [5, 7]
    assert list(ledger.read([])) == []


def test_ledger_reads_by_time_when_asked(ledger: SqliteLedger) -> None:
    ledger.append(_event(n) for n in reversed(range(2_100)))
    numbers = [s.event.payload["n"] for s in ledger.read(in_time_order=True)]
    assert numbers == list(range(2_100))


def test_append_is_a_no_op_when_repeated(ledger: SqliteLedger) -> None:
    first = _event(1)
    later = replace(first, recorded_at=NOON + timedelta(days=1))
    assert ledger.append([first]) == 1
    assert ledger.append([later, _event(2)]) == 1
    assert [s.sequence for s in ledger.read()] == [1, 2]
    assert next(ledger.read()).event.recorded_at == first.recorded_at


def test_append_names_the_id_when_content_differs(ledger: SqliteLedger) -> None:
    ledger.append([_event(1)])
    with pytest.raises(LedgerConflict, match="event:1") as caught:
        ledger.append([_event(7), _event(1, other=True)])
    assert caught.value.event_id == "event:1"
    assert len(list(ledger.read())) == 1, "a refused batch leaves nothing behind"


def test_append_refuses_when_a_batch_contradicts_itself(ledger: SqliteLedger) -> None:
    with pytest.raises(LedgerConflict):
        ledger.append([_event(1), _event(1, other=True)])


@pytest.mark.parametrize("payload", [{"x": float("nan")}, {"x": "\ud800"}, {"x": object()}])
def test_append_refuses_when_payload_is_not_json(
    ledger: SqliteLedger, payload: dict[str, object]
) -> None:
    with pytest.raises(PermanentError, match="event:1"):
        ledger.append([_event(1, **payload)])
    assert list(ledger.read()) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET payload = '{}'",
        "DELETE FROM events",
        "INSERT OR REPLACE INTO events SELECT sequence, 'x', kind, submission_id, key_id, occurred_us,"
        " recorded_us, trace_id, digest, payload FROM events",
    ],
)
def test_ledger_refuses_when_history_is_rewritten(tmp_path: Path, statement: str) -> None:
    ledger = SqliteLedger(tmp_path / "ledger.sqlite")
    ledger.append([_event(1)])
    stranger = sqlite3.connect(tmp_path / "ledger.sqlite")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        stranger.execute(statement)
    stranger.close()
    assert [s.event for s in ledger.read()] == [_event(1)]


def test_ledger_keeps_the_first_when_replaced_by_id(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "ledger.sqlite")
    ledger.append([_event(1)])
    stranger = sqlite3.connect(tmp_path / "ledger.sqlite")
    columns = "event_id, kind, submission_id, occurred_us, recorded_us, digest, payload"
    stranger.execute(
        f"INSERT OR REPLACE INTO events ({columns}) VALUES ('event:1', 'report', 'x', 0, 0, x'00', '{{}}')"
    )
    stranger.commit()
    stranger.close()
    assert [s.event for s in ledger.read()] == [_event(1)]


def test_ledger_finds_records_when_asked_by_id(ledger: SqliteLedger) -> None:
    ledger.append(
        [
            from_submission(_submission(), recorded_at=NOON),
            from_decision(_decision(), recorded_at=NOON, seller_id="seller"),
        ]
    )
    assert ledger.get_submission("s1") == _submission()
    assert ledger.get_decision("a" * 32) == _decision()
    assert ledger.get_decision_of("s1") == _decision()
    assert ledger.get_submission("s2") is None
    assert ledger.get_decision("b" * 32) is None


def test_append_refuses_when_a_trace_is_taken(ledger: SqliteLedger) -> None:
    ledger.append([from_decision(_decision(1), recorded_at=NOON)])
    with pytest.raises(TraceTaken):
        ledger.append([from_decision(_decision(2), recorded_at=NOON)])
    assert ledger.append([from_decision(_decision(1), recorded_at=NOON)]) == 0


def _append_many(path: Path, worker: int) -> None:
    ledger = SqliteLedger(path)
    for batch in range(20):
        numbers = range(batch * 10, batch * 10 + 10)
        own = [_event(1_000 * (worker + 1) + n) for n in numbers]
        ledger.append(own + [_event(n) for n in numbers])


def test_ledger_loses_nothing_when_processes_compete(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append_many, args=(path, n)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    stored = list(SqliteLedger(path).read())
    assert len({s.event.event_id for s in stored}) == len(stored) == 3 * 200 + 200
    assert [s.sequence for s in stored] == sorted(s.sequence for s in stored)


def test_ledger_serves_threads_when_shared(ledger: SqliteLedger) -> None:
    threads = [threading.Thread(target=lambda n=n: ledger.append([_event(n)])) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {s.event.payload["n"] for s in ledger.read()} == set(range(8))


def test_read_memory_stays_flat_when_ledger_grows(ledger: SqliteLedger) -> None:
    ledger.append(_event(n, text="x" * 2_000) for n in range(10_000))
    tracemalloc.start()
    count = sum(1 for _ in ledger.read())
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 10_000
    assert peak_bytes < 12 * 2**20, "20 MB of payloads must not be held at once"


def test_ledger_says_so_when_the_file_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(PermanentError, match=r"ledger\.sqlite"):
        SqliteLedger(path)


def test_append_is_temporary_when_locked(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "ledger.sqlite", busy_s=0.05)
    holder = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerUnavailable, match="locked"):
        ledger.append([_event(1)])
    holder.execute("ROLLBACK")
    holder.close()
    assert ledger.append([_event(1)]) == 1


def test_read_gives_one_stretch_of_time_alone(ledger: SqliteLedger) -> None:
    ledger.append([_event(number) for number in range(72)])
    since, until = NOON + timedelta(seconds=23), NOON + timedelta(seconds=47)
    found = ledger.read(since=since, until=until, in_time_order=True)
    assert [one.event.payload["n"] for one in found] == [*range(24, 48)]
