"""One writer per store: who comes second waits for the first to have come as far, and says when it does not."""

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from featurestore.layout import FeaturesNotReady, Place
from featurestore.letters import Progress
from featurestore.online import OnlineReader, open_rows
from featurestore.repository import apply, is_declared, open_store
from featurestore.writer import StoreBusy, catch_up, letters_of, set_up, writing
from ledger.events import from_submission
from ledger.ledger import SqliteLedger
from moderation.clock import SystemClock
from moderation.errors import FeatureStoreUnavailable
from serving.process import StartFailed, start_features
from tests.feature_events import START, upload


@pytest.fixture
def filled(ledger: SqliteLedger) -> SqliteLedger:
    ledger.append([from_submission(upload("u1", START), recorded_at=START)])
    return ledger


@pytest.fixture
def busy(place: Place) -> Iterator[None]:
    place.folder.mkdir(parents=True, exist_ok=True)
    with writing(place):
        yield


def test_a_home_without_a_store_gets_one(filled: SqliteLedger, place: Place) -> None:
    catch_up(place, filled, SystemClock())
    reader = OnlineReader(open_rows(place, budget_s=1.0))
    assert reader.read(upload("u2", START)).newest == START
    reader.close()


def test_nothing_is_opened_where_the_store_has_come_as_far(
    filled: SqliteLedger, place: Place, busy: None
) -> None:
    letters_of(place).save_progress(Progress(1, 1))
    catch_up(place, filled, SystemClock(), patience_s=0)


def test_who_comes_second_waits_for_the_first(
    filled: SqliteLedger, place: Place, busy: None
) -> None:
    later = threading.Timer(0.5, lambda: letters_of(place).save_progress(Progress(1, 1)))
    later.start()
    catch_up(place, filled, SystemClock(), patience_s=30)
    later.join()


def test_a_writer_that_does_not_come_on_is_named(
    filled: SqliteLedger, place: Place, busy: None
) -> None:
    with pytest.raises(FeatureStoreUnavailable, match="has not come to event 1 of the ledger"):
        catch_up(place, filled, SystemClock(), patience_s=0.3)


def test_the_lock_goes_with_its_block(place: Place) -> None:
    place.folder.mkdir(parents=True)
    with (
        writing(place),
        pytest.raises(StoreBusy, match="stop `tidegate features stream`"),
        writing(place),
    ):
        pytest.fail("there is one writer")
    with writing(place):
        pass


def test_where_nothing_was_set_up_nobody_writes(place: Place) -> None:
    with pytest.raises(FeaturesNotReady, match="tidegate features apply"), writing(place):
        pytest.fail("there is nothing to write")


@pytest.mark.parametrize("content", ["of a release before", None])
def test_definitions_of_another_release_are_put_into_force(
    place: Place, content: str | None
) -> None:
    apply(place).delete_feature_view("ground_truth")
    digest = place.folder / "declared.sha256"
    digest.write_text(content) if content else digest.unlink()
    assert not is_declared(place)
    set_up(place)
    assert is_declared(place)
    assert open_store(place).get_feature_view("ground_truth")


def test_the_stream_process_follows_the_ledger_and_is_the_only_one(
    filled: SqliteLedger, tmp_path: Path
) -> None:
    environment = {"TIDEGATE__HOME": str(tmp_path)}
    place = Place(tmp_path / "features")
    with start_features(log_folder=tmp_path / "logs", environment=environment) as stream:
        filled.append([from_submission(upload("u2", START), recorded_at=START)])
        catch_up(place, filled, SystemClock(), patience_s=30)
        assert letters_of(place).progress() == Progress(1, 2)
        metrics = httpx.get(f"{stream.http_url}/metrics").text
        assert "tidegate_feature_events_total" in metrics
        with (
            pytest.raises(StartFailed, match="another process writes"),
            start_features(log_folder=tmp_path / "logs", environment=environment),
        ):
            pytest.fail("there is one writer")
    with writing(place):
        pass
