import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from moderation.scoring import ScoringItem
from serving.predictor.backlog import Backlog, Entry, Priority
from serving.predictor.latency import LatencyModel

UPLOAD, RESCAN, BACKFILL = Priority


def _entry(priority: Priority, arrived_s: float = 0.0, deadline_s: float = math.inf) -> Entry:
    return Entry(None, 0, ScoringItem(), priority, arrived_s, deadline_s)


def _line(*entries: Entry, fair_every: int = 16) -> Backlog:
    backlog = Backlog(fair_every)
    for entry in entries:
        backlog.add(entry)
    return backlog


def _model(fixed_s: float, pass_s: float) -> LatencyModel:
    model = LatencyModel()
    model.fixed_s, model.pass_s = fixed_s, pass_s
    return model


def _taken(backlog: Backlog) -> list[Entry]:
    taken = []
    while (entry := backlog.take()) is not None:
        taken.append(entry)
    return taken


def test_uploads_go_first_and_lines_keep_their_order() -> None:
    entries = [_entry(p, n) for n, p in enumerate((BACKFILL, RESCAN, UPLOAD, RESCAN, UPLOAD))]
    order = [int(entry.arrived_s) for entry in _taken(_line(*entries))]
    assert order == [2, 4, 1, 3, 0]


def test_backfill_is_not_starved_when_uploads_never_end() -> None:
    backlog = _line(_entry(BACKFILL), _entry(RESCAN, 1), fair_every=4)
    order = []
    for n in range(15):
        backlog.add(_entry(UPLOAD, n))
        entry = backlog.take()
        assert entry is not None
        order.append(entry.priority)
    assert order == [UPLOAD] * 4 + [BACKFILL] + [UPLOAD] * 4 + [RESCAN] + [UPLOAD] * 5


def test_backfill_takes_one_in_many_places_when_flooding() -> None:
    backlog = _line(*(_entry(BACKFILL) for _ in range(1_000)), fair_every=16)
    for n in range(340):
        backlog.add(_entry(UPLOAD, n))
    taken = Counter(entry.priority for entry in (backlog.take() for _ in range(340)) if entry)
    assert taken[BACKFILL] == 20


def test_batch_stops_at_its_size() -> None:
    backlog = _line(*(_entry(UPLOAD) for _ in range(5)))
    batch, late = backlog.take_batch(0.0, 3, LatencyModel())
    assert (len(batch), len(late), len(backlog)) == (3, 0, 2)


def test_batch_ends_where_more_would_make_it_longer_and_nothing_cheaper() -> None:
    sizes = []
    for fixed_s, pass_s in ((0.001, 0.010), (0.001, 0.001), (0.001, 0.0005), (0.010, 0.0)):
        backlog = _line(*(_entry(UPLOAD, n) for n in range(40)))
        batch, late = backlog.take_batch(0.0, 32, _model(fixed_s, pass_s))
        assert (len(late), len(backlog)) == (0, 40 - len(batch))
        sizes.append(len(batch))
    assert sizes == [4, 10, 20, 32]


def test_batch_grows_only_while_everyone_is_in_time() -> None:
    entries = [_entry(UPLOAD, n, deadline_s=0.050) for n in range(20)]
    batch, late = _line(*entries).take_batch(0.0, 32, _model(0.010, 0.005))
    assert (len(batch), late) == (8, [])


def test_batch_leaves_out_who_is_in_a_hurry_of_its_own() -> None:
    patient, hurried = _entry(UPLOAD, 0, 1.0), _entry(UPLOAD, 1, 0.016)
    backlog = _line(patient, hurried)
    batch, late = backlog.take_batch(0.0, 32, _model(0.010, 0.005))
    assert (batch, late, list(backlog)) == ([patient], [], [hurried])


def test_late_ones_are_sorted_out_and_not_computed() -> None:
    late_one, other = _entry(UPLOAD, 0, 0.012), _entry(UPLOAD, 1)
    batch, late = _line(late_one, other).take_batch(0.0, 32, _model(0.010, 0.005))
    assert (batch, late) == ([other], [late_one])


def test_entry_leaves_from_anywhere() -> None:
    entries = [_entry(RESCAN, n) for n in range(5)]
    backlog = _line(*entries)
    backlog.remove(entries[2])
    assert entries[2] not in backlog
    assert [int(entry.arrived_s) for entry in _taken(backlog)] == [0, 1, 3, 4]


@given(
    st.lists(st.tuples(st.sampled_from(list(Priority)), st.floats(0, 1)), max_size=60),
    st.integers(1, 20),
    st.integers(1, 5),
)
def test_everyone_leaves_once_and_in_time(
    given_entries: list[tuple[Priority, float]], max_batch: int, fair_every: int
) -> None:
    model = _model(0.02, 0.01)
    entries = [_entry(p, n, deadline_s) for n, (p, deadline_s) in enumerate(given_entries)]
    backlog, now_s, left = _line(*entries, fair_every=fair_every), 0.0, []
    while len(backlog):
        batch, late = backlog.take_batch(now_s, max_batch, model)
        assert batch or late, "something always moves"
        assert len(batch) <= max_batch
        now_s += model.seconds(len(batch)) if batch else 0
        assert all(entry.deadline_s >= now_s - 1e-9 for entry in batch)
        left += batch + late
    assert Counter(map(id, left)) == Counter(map(id, entries))


def _batch(model: LatencyModel, *entries: Entry, behind_s: float = 0.1) -> list[Entry]:
    batch, late = _line(*entries).take_batch(0.0, 32, model, behind_s)
    assert not late
    return batch


def _heavy(priority: Priority) -> Entry:
    """Return a listing with eight photos."""
    return Entry(None, 0, ScoringItem(), priority, 0.0, passes=9)


def test_uploads_wait_for_no_company_that_only_makes_them_wait() -> None:
    model = _model(0.002, 0.06)
    upload = _entry(UPLOAD)
    assert _batch(model, upload, *map(_heavy, [BACKFILL] * 8)) == [upload]
    assert _batch(model, upload, _entry(RESCAN), _entry(BACKFILL)) == [upload]
    uploads = [_entry(UPLOAD) for _ in range(4)]
    assert _batch(model, *uploads, _entry(BACKFILL)) == uploads


def test_what_an_upload_may_come_upon_is_bounded_in_time() -> None:
    model = _model(0.002, 0.06)
    flood = [_heavy(BACKFILL) for _ in range(8)]
    assert len(_batch(model, *flood)) == 1, "one listing is not cut"
    assert len(_batch(_model(0.01, 0.005), *flood)) == 2, "10 ms and twice 45 are 100"
    assert len(_batch(_model(0.01, 0.005), _entry(UPLOAD), *flood)) == 1 + 2
    assert len(_batch(_model(0.01, 0.0005), *flood)) == 8


@given(
    st.lists(st.tuples(st.sampled_from(list(Priority)), st.integers(1, 9)), min_size=1),
    st.floats(0, 0.1),
    st.floats(0.0001, 0.1),
)
def test_lower_lines_never_take_more_of_a_batch_than_one_listing_or_their_bound(
    given_entries: list[tuple[Priority, int]], fixed_s: float, pass_s: float
) -> None:
    entries = [
        Entry(None, 0, ScoringItem(), p, n, passes=k) for n, (p, k) in enumerate(given_entries)
    ]
    model = _model(fixed_s, pass_s)
    batch = _batch(model, *entries, behind_s=0.1)
    assert batch, "whoever comes is served"
    lower = [entry for entry in batch if entry.priority is not UPLOAD]
    assert len(batch) == 1 or model.seconds(sum(one.passes for one in lower)) <= 0.1 or not lower
