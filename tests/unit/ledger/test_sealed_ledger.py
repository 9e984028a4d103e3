"""Events of sellers are sealed in the ledger; those of an erased seller are passed over, and their ids stay taken."""

import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ledger.erasures import Belongings
from ledger.events import Event, EventKind, StoredEvent, from_ground_truth, from_submission
from ledger.keys import KeyRing, KeysLost, SealBroken
from ledger.ledger import LedgerConflict, SqliteLedger, UnknownSeller
from moderation.errors import PermanentError
from moderation.listing import GroundTruth, TruthSource
from tests.feature_events import upload

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def _uploaded(name: str, seller_id: str | None = "seller-one", title: str = "Näkki") -> Event:
    submission = upload(name, NOON, seller_id=seller_id, title=title)
    return from_submission(submission, recorded_at=NOON)


def _all_of(events: Iterable[StoredEvent]) -> Belongings:
    return Belongings(tuple(stored.sequence for stored in events))


@pytest.fixture
def ledger(tmp_path: Path) -> SqliteLedger:
    return SqliteLedger(tmp_path / "ledger.sqlite")


def _bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())


def test_what_names_a_seller_is_sealed(ledger: SqliteLedger, tmp_path: Path) -> None:
    events = [_uploaded("u1"), _uploaded("u2", None, "Nobody's")]
    ledger.append(events)
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("ledger.sqlite*"))
    assert "Näkki".encode() not in kept
    assert b"seller-one" not in kept
    assert b"Nobody's" in kept, "what names nobody is kept as it is"
    assert [stored.event for stored in ledger.read()] == events
    assert not ledger.is_erased("submission:u1")


def test_the_digest_of_a_sealed_event_cannot_be_guessed(
    ledger: SqliteLedger, tmp_path: Path
) -> None:
    """A plain digest could be tried with every likely content; two homes keep another one of the same event."""
    other = SqliteLedger(tmp_path / "other" / "ledger.sqlite")
    digests = []
    for one, path in ((ledger, tmp_path), (other, tmp_path / "other")):
        one.append([_uploaded("u1")])
        connection = sqlite3.connect(path / "ledger.sqlite")
        digests.append(connection.execute("SELECT digest FROM events").fetchone()[0])
        connection.close()
    assert digests[0] != digests[1]


def test_a_ledger_of_more_sellers_than_a_process_remembers_is_read(
    ledger: SqliteLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [_uploaded(f"u{n}", f"s{n // 2 if n % 2 else n % 7}") for n in range(60)]
    ledger.append(events)
    monkeypatch.setattr("ledger.keys._REMEMBERED", 20)
    monkeypatch.setattr("ledger.ledger.ROWS", 8)
    for one in (ledger, SqliteLedger(tmp_path / "ledger.sqlite")):
        assert [stored.event for stored in one.read()] == events
        assert one.get_submission("u0") is not None
        assert not one.is_erased("submission:u0")
    assert ledger.append(events) == 0, "every key was found again"


def test_a_sealed_event_is_the_same_once_more(ledger: SqliteLedger) -> None:
    ledger.append([_uploaded("u1")])
    assert ledger.append([replace(_uploaded("u1"), recorded_at=NOON + timedelta(days=1))]) == 0
    for other in (_uploaded("u1", title="Other"), _uploaded("u1", "s2"), _uploaded("u1", None)):
        with pytest.raises(LedgerConflict, match="u1"):
            ledger.append([other])
    assert ledger.append([_uploaded("u2"), _uploaded("u2")]) == 1
    with pytest.raises(LedgerConflict, match="u3"):
        ledger.append([_uploaded("u3"), _uploaded("u3", title="Other")])


def test_an_erased_seller_is_not_there_any_more(ledger: SqliteLedger, tmp_path: Path) -> None:
    ledger.append([_uploaded("u1"), _uploaded("u2", "s2"), _uploaded("u3"), _uploaded("u4", None)])
    reader = SqliteLedger(tmp_path / "ledger.sqlite")
    assert len(list(reader.read())) == 4
    done = ledger.erase("seller-one", _all_of, NOON)
    assert done.belongings.sequences == (1, 3)
    assert done.counts == {"events": 2}
    for one in (ledger, reader):
        assert [stored.event.submission_id for stored in one.read()] == ["u2", "u4"]
        assert one.get_event("submission:u1") is None
        assert one.get_submission("u1") is None
        assert one.is_erased("submission:u1")
        assert not one.is_erased("submission:u2")
        assert not one.is_erased("submission:u4")
        assert not one.is_erased("submission:never")
        assert one.last_sequence() == 4
    ledger.erasures.finish(done.key_id, NOON)
    assert b"seller-one" not in _bytes(tmp_path)
    with pytest.raises(UnknownSeller, match="tidegate privacy show"):
        ledger.erase("seller-one", _all_of, NOON)


def test_events_are_counted_whether_they_can_be_read_or_not(ledger: SqliteLedger) -> None:
    kinds = (EventKind.SUBMISSION,)
    assert ledger.num_events(kinds) == 0
    ledger.append([_uploaded("u1"), _uploaded("u2", "s2"), _uploaded("u3", None)])
    ledger.erase("seller-one", _all_of, NOON)
    assert len(list(ledger.read(kinds))) == 2
    assert ledger.num_events(kinds) == 3
    assert ledger.num_events((EventKind.DECISION,)) == 0
    assert ledger.num_events(kinds, since=NOON - timedelta(seconds=1)) == 3
    assert ledger.num_events(kinds, since=NOON) == 0, "later than that, as `read` takes it"


def test_a_seller_is_erased_once_when_two_ask(ledger: SqliteLedger, tmp_path: Path) -> None:
    ledger.append(_uploaded(f"u{number}") for number in range(50))
    done, refused = [], []

    def erase() -> None:
        try:
            done.append(SqliteLedger(tmp_path / "ledger.sqlite").erase("seller-one", _all_of, NOON))
        except UnknownSeller as error:
            refused.append(error)

    threads = [threading.Thread(target=erase) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(done), len(refused)) == (1, 3)
    assert done[0].counts == {"events": 50}


def test_a_retried_event_of_an_erased_seller_stays_erased(
    ledger: SqliteLedger, tmp_path: Path
) -> None:
    ledger.append([_uploaded("u1")])
    ledger.erase("seller-one", _all_of, NOON)
    assert ledger.append([_uploaded("u1"), _uploaded("u1", title="Other")]) == 0
    assert list(ledger.read()) == []
    assert KeyRing(tmp_path / "keys.sqlite").find("seller-one") is None, "nobody came back"


def test_who_comes_back_is_somebody_new(ledger: SqliteLedger) -> None:
    ledger.append([_uploaded("u1")])
    first = ledger.erase("seller-one", _all_of, NOON)
    ledger.append([_uploaded("u1"), _uploaded("u2")])
    assert [stored.event.submission_id for stored in ledger.read()] == ["u2"]
    second = ledger.erase("seller-one", _all_of, NOON)
    assert first.key_id != second.key_id
    assert second.belongings.sequences == (2,)


def test_events_that_named_no_seller_are_counted(ledger: SqliteLedger) -> None:
    truth = GroundTruth(
        submission_id="u1",
        policy="p",
        violates=True,
        source=TruthSource.REVIEW,
        reviewed_at=NOON,
        known_at=NOON,
    )
    ledger.append([_uploaded("u1"), _uploaded("u2", "s2")])
    ledger.append([from_ground_truth(truth, recorded_at=NOON)])
    done = ledger.erase("seller-one", _all_of, NOON)
    assert ledger.num_about(done.key_id) == 1


@pytest.mark.parametrize(
    "change",
    ["payload = substr(payload, 2)", "submission_id = 'u9'", "payload = 'text'", "occurred_us = 1"],
)
def test_an_altered_event_is_named(ledger: SqliteLedger, tmp_path: Path, change: str) -> None:
    ledger.append([_uploaded("u1")])
    stranger = sqlite3.connect(tmp_path / "ledger.sqlite")
    stranger.execute("DROP TRIGGER events_never_change")
    stranger.execute(f"UPDATE events SET {change}")
    stranger.commit()
    stranger.close()
    with pytest.raises(SealBroken, match="submission:u1"):
        list(ledger.read())


def test_a_ledger_without_its_keys_says_so(ledger: SqliteLedger, tmp_path: Path) -> None:
    ledger.append([_uploaded("u1")])
    for path in tmp_path.glob("keys.sqlite*"):
        path.unlink()
    for _ in range(2):
        with pytest.raises(KeysLost, match="put it back; nothing was written"):
            SqliteLedger(tmp_path / "ledger.sqlite")
    with pytest.raises(KeysLost, match="put it back; nothing was written"):
        ledger.append([_uploaded("u2")])  # that it opened the keys before helps nobody
    assert not (tmp_path / "keys.sqlite").exists()
    assert ledger.last_sequence() == 1


def test_a_ledger_beside_keys_of_another_home_says_so(ledger: SqliteLedger, tmp_path: Path) -> None:
    ledger.append([_uploaded("u1")])
    for path in tmp_path.glob("keys.sqlite*"):
        path.unlink()
    KeyRing(tmp_path / "keys.sqlite").of(["seller-one"])
    with pytest.raises(KeysLost, match="put back the right one"):
        SqliteLedger(tmp_path / "ledger.sqlite")


def test_a_ledger_whose_newest_seller_was_erased_opens(
    ledger: SqliteLedger, tmp_path: Path
) -> None:
    ledger.append([_uploaded("u1"), _uploaded("u2", "s2")])
    ledger.erase("s2", _all_of, NOON)
    again = SqliteLedger(tmp_path / "ledger.sqlite")
    assert [stored.event.event_id for stored in again.read()] == ["submission:u1"]


def test_an_older_ledger_is_refused(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "ledger.sqlite")
    old.execute("CREATE TABLE events (sequence INTEGER PRIMARY KEY, seller_id TEXT, payload TEXT)")
    old.close()
    with pytest.raises(PermanentError, match="new home folder"):
        SqliteLedger(tmp_path / "ledger.sqlite")
