"""Erasing a seller from a whole home: nothing legible is left, what is said is true, and a cut is made good."""

import fcntl
import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from components.home import Home
from components.ingest.rows import read_rows
from featurestore.history import behaviour_at
from featurestore.layout import Place
from ledger.events import EventKind, from_submission
from ledger.keys import KeyRing, KeysUnavailable
from ledger.ledger import SqliteLedger, UnknownSeller
from ledger.spill import Spill
from ledger.store import ContentMissing, ContentStore
from moderation.clock import SystemClock
from moderation.errors import FeatureStoreUnavailable
from moderation.settings import settings
from tests.erasable_home import (
    GONE,
    POLICIES,
    STAYS,
    TITLE,
    UTC_END,
    embedded,
    everything,
    fill,
    photo,
)
from tests.feature_events import START, upload
from tidegate.app import app
from tidegate.console import console
from tidegate.erasing import Eraser, Receipt

RUNNER = CliRunner()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setenv("TIDEGATE__HOME", str(tmp_path / "home"))
    monkeypatch.setattr(console, "width", 200)
    settings.cache_clear()
    yield Home(tmp_path / "home")
    settings.cache_clear()


def _eraser(home: Home, patience_s: float = 20.0) -> Eraser:
    place = Place((home.folder / "features").absolute())
    return Eraser(home, place, SystemClock(), patience_s=patience_s)


def _run(*arguments: str) -> tuple[int, str]:
    done = RUNNER.invoke(app, ["privacy", *arguments])
    return done.exit_code, done.output + (str(done.exception) if done.exception else "")


def _sellers(home: Home) -> list[str | None]:
    known = partial(behaviour_at, home.folder / "features")
    rows = read_rows(SqliteLedger(home.ledger), UTC_END, POLICIES, known)
    return [row.submission.listing.seller_id for row in rows]


def _check_erased(home: Home, receipt: Receipt) -> None:
    """Compare what is there with what the receipt says."""
    left = everything(home.folder)
    for secret in (GONE, TITLE, "address-of-0", "address-of-2"):
        assert secret.encode() not in left, secret
    for number in (0, 2):
        assert photo(number) not in left
        assert embedded(home, number) == 0
    assert embedded(home, 1) == 8
    assert _sellers(home) == [STAYS]
    assert receipt.removed == {
        "events": 4,
        "blobs": 2,
        "embeddings": 16,
        "embeddings_of_attacked_listings": 0,
        "hard_examples": 2,
        "import_report_lines": 2,
        "unseen_listings": 1,
        "feature_history_rows": receipt.removed["feature_history_rows"],
        "feature_online_rows": receipt.removed["feature_online_rows"],
        "refused_events": receipt.removed["refused_events"],
        "refused_records": 0,
    }
    kept = json.loads((home.receipts / f"{receipt.key_id}.json").read_text())
    assert Receipt(**kept) == receipt
    ledger = SqliteLedger(home.ledger)
    (event,) = (one.event for one in ledger.read((EventKind.ERASURE,)))
    assert event.payload["removed"] == receipt.removed
    assert event.payload["key_id"] == receipt.key_id
    assert ledger.erasures.unfinished() == []


def test_an_erasure_covers_what_a_gateway_has_spilled(home: Home) -> None:
    """The gateway holds the files of its spill; what is in them cannot be read any more, and the receipt says so."""
    fill(home)
    spill = Spill(home.folder / "spill", KeyRing(home.keys), 10**6)
    event = from_submission(
        upload("spilled", START, seller_id=GONE, title=TITLE), recorded_at=START
    )
    picture = spill.seal_blob(photo(0), GONE)
    assert spill.write_each([spill.seal([event]), picture]) == [1, 1]
    (receipt,) = _eraser(home).erase(GONE)
    assert spill.get_event(event.event_id) is None
    assert receipt.is_finished
    said = [why for place, why in receipt.left.items() if place.endswith("spill")]
    assert ["2 frames that nobody can read any more" in why for why in said] == [True]
    kept = everything(home.folder)
    assert TITLE.encode() not in kept
    assert photo(0) not in kept
    spill.close()


def test_an_erased_seller_leaves_nothing_legible(home: Home) -> None:
    fill(home)
    before = everything(home.folder)
    assert GONE.encode() in before, "the feature store is not sealed"
    assert TITLE.encode() in before, "nor are pictures to look at"
    assert photo(0) in before
    code, output = _run("erase", GONE)
    assert code == 0, output
    key_id = SqliteLedger(home.ledger).erasures.all()[0].key_id
    receipt = Receipt(**json.loads((home.receipts / f"{key_id}.json").read_text()))
    _check_erased(home, receipt)
    assert receipt.removed["feature_history_rows"] >= 2
    assert receipt.removed["feature_online_rows"] >= 4
    assert receipt.left == {
        str(
            home.ledger
        ): "2 events that named no seller, about submissions of this one: ids, times and verdicts"
    }
    assert "removed  2 blobs" in output
    assert f"receipt  {home.receipts}" in output
    pictures = sorted(path.name[0] for path in (home.hard_examples / "images").iterdir())
    assert pictures == ["1"]
    with pytest.raises(ContentMissing):
        ContentStore(home.content).get(_digest(0))
    assert ContentStore(home.content).get(_digest(1)) == photo(1)
    shown = _run("show")[1]
    assert key_id in shown
    assert "pending" not in shown
    code, output = _run("erase", GONE)
    assert code == 1
    assert "there is no key" in output


def _digest(number: int) -> str:
    return hashlib.sha256(photo(number)).hexdigest()


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("ledger.erasures.Erasures.rewrite", KeysUnavailable("held")),
        ("moderation.embedding_cache.EmbeddingCache.forget", OSError("full")),
        ("tidegate.erasing._drop_hard_examples", OSError("full")),
        ("ledger.store.ContentStore.remove", OSError("away")),
        ("featurestore.sinks.erase_history", OSError("full")),
        ("featurestore.stream.FeatureStream._publish_without", KeyboardInterrupt()),
        ("ledger.ledger.SqliteLedger.append", KeyboardInterrupt()),
        ("tidegate.erasing._receipt", KeyboardInterrupt()),
        ("ledger.erasures.Erasures.finish", KeysUnavailable("held")),
        ("ledger.erasures.Erasures._set", KeyboardInterrupt()),
    ],
)
def test_an_erasure_that_was_cut_off_goes_on(
    home: Home, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    fill(home)

    def cut(*arguments: object, **options: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(step, cut)
        with pytest.raises(type(error)):
            _eraser(home).erase(GONE)
    assert _sellers(home) == [STAYS], "the key is gone from the first step on"
    (receipt,) = _eraser(home).erase(GONE)
    _check_erased(home, receipt)


def test_an_erasure_cut_before_its_last_step_goes_on(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The note of whose it was is gone then; whoever asks next finishes it."""
    fill(home)
    with monkeypatch.context() as patch:
        rewrites = []

        def second(self: Any) -> None:
            rewrites.append(1)
            if len(rewrites) == 2:
                raise KeysUnavailable("held")

        patch.setattr("ledger.erasures.Erasures.rewrite", second)
        with pytest.raises(KeysUnavailable):
            _eraser(home).erase(GONE)
    (receipt,) = _eraser(home).erase(GONE)
    _check_erased(home, receipt)


def test_a_running_stream_does_its_part(home: Home) -> None:
    fill(home)
    command = [sys.executable, "-m", "tidegate", "features", "stream", "--every", "0.1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("following"):
                break
        (receipt,) = _eraser(home, patience_s=60).erase(GONE)
    finally:
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=60)[0]
    assert receipt.pending is None, rest
    assert "erased   1 sellers were taken out" in rest
    _check_erased(home, receipt)


def test_a_stream_that_does_not_come_is_told_of(home: Home) -> None:
    fill(home)
    with (home.folder / "features" / "stream.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        (pending,) = _eraser(home, patience_s=0.3).erase(GONE)
    assert not pending.is_finished
    assert "features stream" in str(pending.pending)
    assert _sellers(home) == [STAYS]
    assert photo(0) not in everything(home.content)
    shown = _run("show")[1]
    assert "tidegate privacy erase with the same seller goes on" in shown
    (receipt,) = _eraser(home).erase(GONE)
    _check_erased(home, receipt)


def test_a_store_that_is_away_is_told_of(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(home)

    def away(*arguments: object) -> int:
        raise FeatureStoreUnavailable("refused")

    with monkeypatch.context() as patch:
        patch.setattr("featurestore.sinks.erase_online", away)
        code, output = _run("erase", GONE)
    assert code == 1
    assert "pending  the feature store does not answer (refused)" in output
    (home.folder / "features" / "feature_store.yaml").rename(home.folder / "aside")
    (pending,) = _eraser(home).erase(GONE)
    assert "tidegate features apply" in str(pending.pending)
    (home.folder / "aside").rename(home.folder / "features" / "feature_store.yaml")
    (receipt,) = _eraser(home).erase(GONE)
    _check_erased(home, receipt)


def test_what_was_left_half_written_goes_too(home: Home) -> None:
    fill(home)
    report = home.imported.with_name(f"{home.imported.name}.partial")
    again = home.imported.with_name(f".{home.imported.name}.1")
    for left in (report, again):
        left.write_text(home.imported.read_text())
    with report.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        code, output = _run("erase", GONE)
        assert code == 1
        assert "erase again when the import is done" in output
        assert report.exists()
    assert _sellers(home) == [STAYS]
    (receipt,) = _eraser(home).erase(GONE)
    _check_erased(home, receipt)
    assert not report.exists()
    assert not again.exists()


def test_a_receipt_names_the_logs(home: Home) -> None:
    fill(home)
    home.logs.mkdir()
    (receipt,) = _eraser(home).erase(GONE)
    assert "traces" in receipt.left[str(home.logs)]


def test_a_home_without_features_needs_none(home: Home) -> None:
    one = upload("u1", START, seller_id=GONE)
    SqliteLedger(home.ledger).append([from_submission(one, recorded_at=START)])
    (receipt,) = _eraser(home).erase(GONE)
    assert receipt.is_finished
    assert GONE.encode() not in everything(home.folder)


def test_a_stranger_is_told_of(home: Home) -> None:
    assert "holds no ledger" in _run("erase", "nobody")[1]
    assert not home.folder.exists()
    SqliteLedger(home.ledger)
    assert "nobody was erased" in _run("show")[1]
    with pytest.raises(UnknownSeller, match="nobody"):
        _eraser(home).erase("nobody")
