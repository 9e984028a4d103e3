import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.attestation import Attestation
from moderation.clock import SimulatedClock
from moderation.errors import ModelNotReady, PermanentError
from serving.routing import (
    REFUSED,
    Choice,
    Lease,
    Route,
    Router,
    RoutingTable,
    choose,
    load_table,
    write_table,
)
from tests.small_disk import nothing_opens

CHAMPION, CANDIDATE = "a" * 64, "b" * 64
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def _table(weight: float = 0.2, renewal: int = 1, **changes: object) -> RoutingTable:
    fields: dict[str, object] = {
        "revision": 3,
        "renewal": renewal,
        "lease_s": 10.0,
        "champion": CHAMPION,
        "releases": {
            CHAMPION: {"url": "grpc://127.0.0.1:1", "weight": 1.0},
            CANDIDATE: {"url": "grpc://127.0.0.1:2", "weight": weight},
        },
        "salt": "rollout-7",
    }
    return RoutingTable.model_validate(fields | changes)


def test_choose_splits_by_weight_when_leased() -> None:
    arms = [choose(_table(), f"seller-{n}", is_lease_live=True).arm for n in range(20_000)]
    assert abs(arms.count("candidate") / len(arms) - 0.2) < 0.01


def test_choose_sticks_when_weight_grows() -> None:
    sellers = [f"seller-{n}" for n in range(500)]
    early = {s for s in sellers if choose(_table(0.1), s, is_lease_live=True).arm == "candidate"}
    late = {s for s in sellers if choose(_table(0.3), s, is_lease_live=True).arm == "candidate"}
    assert early
    assert early < late


def test_choose_tells_the_share_of_its_arm() -> None:
    shares = {
        choice.arm: (choice.weight, choice.release, choice.url, choice.revision)
        for choice in (choose(_table(), f"s{n}", is_lease_live=True) for n in range(100))
    }
    assert shares == {
        "champion": (0.8, CHAMPION, "grpc://127.0.0.1:1", 3),
        "candidate": (0.2, CANDIDATE, "grpc://127.0.0.1:2", 3),
    }


@given(st.text(max_size=20), st.floats(0, 1))
def test_choose_gives_the_champion_when_not_leased(seller: str, weight: float) -> None:
    choice = choose(_table(weight), seller, is_lease_live=False)
    assert (choice.arm, choice.weight) == ("champion", 1.0)


def test_lease_is_dead_when_the_gateway_restarts() -> None:
    lease = Lease().observe(renewal=7, now=100.0)
    assert not lease.is_live(10.0, 100.0)
    assert not lease.observe(7, 101.0).is_live(10.0, 101.0)
    assert lease.observe(8, 102.0).is_live(10.0, 111.9)


def test_lease_runs_out_when_not_renewed() -> None:
    lease = Lease().observe(1, 0.0).observe(2, 5.0)
    assert lease.is_live(10.0, 14.9)
    assert not lease.observe(2, 14.0).is_live(10.0, 15.0), "the same renewal adds nothing"
    assert not lease.observe(1, 14.0).is_live(10.0, 15.0), "an older table adds nothing"
    assert lease.observe(3, 15.0).is_live(10.0, 24.9)


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 20)), max_size=30))
def test_lease_is_never_live_beyond_its_length(steps: list[tuple[int, float]]) -> None:
    lease, now, newest, newest_at = Lease(), 0.0, None, None
    for renewal, wait in steps:
        now += wait
        lease = lease.observe(renewal, now)
        if newest is not None and renewal > newest:
            newest_at = now
        newest = renewal if newest is None else max(newest, renewal)
        expected = newest_at is not None and now - newest_at < 10.0
        assert lease.is_live(10.0, now) is expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"champion": "c" * 64}, "champion"),
        ({"shadow": "c" * 64}, "shadow"),
        ({"lease_s": 0}, "lease_s"),
        ({"lease_s": "1e999"}, "lease_s"),
        ({"releases": {CHAMPION: {"url": "grpc://x:99999", "weight": 1}}}, "from 1 to 65535"),
        ({"surprise": 1}, "surprise"),
        ({"releases": {CHAMPION: {"url": "http://x", "weight": 1}}}, "url"),
        ({"releases": {CHAMPION: {"url": "grpc://x:1", "caps": {"spam": "allow"}}}}, "caps"),
        ({"releases": {d * 64: {"url": "grpc://x:1", "weight": 0.5} for d in "abc"}}, "one candid"),
    ],
)
def test_table_is_refused_when_wrong(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "routing.json"
    write_table(path, _table())
    fields = _table().model_dump(mode="json") | change
    path.write_text(json.dumps(fields))
    with pytest.raises(PermanentError, match=message):
        load_table(path)


def test_table_is_on_the_disk_when_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_table(tmp_path / "routing.json", _table())
    assert synced == [(tmp_path / "routing.json").stat().st_ino, tmp_path.stat().st_ino]


def _looked(router: Router) -> Choice:
    router.refresh()
    return router.choose("s")


def test_router_applies_a_table_when_it_changes(tmp_path: Path) -> None:
    path, clock = tmp_path / "routing.json", SimulatedClock(NOON)
    router = Router(path, clock)
    with pytest.raises(ModelNotReady, match="no routing table"):
        router.choose("s")
    write_table(path, _table(weight=1.0, renewal=1))
    assert _looked(router).arm == "champion", "a renewal seen at the start is not new"
    write_table(path, _table(weight=1.0, renewal=2, revision=4))
    assert _looked(router).arm == "candidate"
    clock.advance(10)
    assert router.choose("s").arm == "champion"
    assert router.choose("s").revision == 4


def test_no_candidate_outlives_its_lease_however_late_the_look(tmp_path: Path) -> None:
    path, clock = tmp_path / "routing.json", SimulatedClock(NOON)
    write_table(path, _table(weight=1.0, renewal=1))
    router = Router(path, clock)
    write_table(path, _table(weight=1.0, renewal=2))  # just after a look, and then nobody looks
    clock.advance(9.0)
    assert _looked(router).arm == "candidate"
    clock.advance(1.0)
    assert router.choose("s").arm == "champion", "10 s after the renewal, 1 s after it was seen"
    write_table(path, _table(weight=1.0, renewal=3))
    clock.advance(10.0)
    assert _looked(router).arm == "champion"


def test_a_look_that_reads_nothing_makes_no_renewal_newer(tmp_path: Path) -> None:
    path, clock = tmp_path / "routing.json", SimulatedClock(NOON)
    write_table(path, _table(weight=1.0, renewal=1))
    router = Router(path, clock)
    renewed = tmp_path / "renewed.json"
    write_table(renewed, _table(weight=1.0, renewal=2))
    path.unlink()
    for spoiled in (None, "{"):
        if spoiled is not None:
            path.write_text(spoiled)
        clock.advance(300.0)
        assert _looked(router).arm == "champion"
    renewed.rename(path)
    assert _looked(router).arm == "champion", "renewed at some time in ten minutes"
    write_table(path, _table(weight=1.0, renewal=3))
    assert _looked(router).arm == "candidate"


def test_choosing_reads_no_disk(tmp_path: Path) -> None:
    path = tmp_path / "routing.json"
    write_table(path, _table())
    router = Router(path, SimulatedClock(NOON))
    write_table(path, _table(revision=4))
    assert (router.choose("s").revision, router.table) == (3, _table())
    assert _looked(router).revision == 4


def test_router_keeps_the_last_table_when_a_bad_one_comes(tmp_path: Path) -> None:
    path, clock = tmp_path / "routing.json", SimulatedClock(NOON)
    write_table(path, _table())
    router = Router(path, clock)
    assert router.choose("s").revision == 3
    path.write_text("{")
    assert _looked(router).revision == 3
    os.unlink(path)
    assert _looked(router).revision == 3
    write_table(path, _table(revision=5))
    assert _looked(router).revision == 5


def test_router_reads_a_table_later_when_it_cannot_now(tmp_path: Path) -> None:
    path, clock = tmp_path / "routing.json", SimulatedClock(NOON)
    write_table(path, _table())
    router = Router(path, clock)
    write_table(path, _table(revision=4))
    before = REFUSED._value.get()
    with nothing_opens():
        assert [_looked(router).revision for _ in range(5)] == [3] * 5
    assert REFUSED._value.get() == before + 1, "told once, not with every look"
    assert _looked(router).revision == 4


def test_route_of_an_attestation_carries_its_caps(tmp_path: Path) -> None:
    said = Attestation(
        kind="gates",
        contract="c" * 64,
        sets={},
        caps={"spam": "block"},
        bundle=CHAMPION,
        created_at=NOON,
        tool="tests",
    )
    route = Route.of(said, "grpc://localhost:1", weight=1.0)
    path = tmp_path / "routing.json"
    write_table(path, RoutingTable(revision=1, champion=CHAMPION, releases={CHAMPION: route}))
    choice = choose(load_table(path), "s", is_lease_live=True)
    assert choice.caps == {"spam": "block"}


def test_champion_alone_is_a_table() -> None:
    table = _table(releases={CHAMPION: Route(url="grpc://localhost:1").model_dump()})
    assert choose(table, "s", is_lease_live=True).weight == 1.0
