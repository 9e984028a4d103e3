"""Whatever happens in whatever order, everything that was accepted is in the ledger exactly once."""

import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.events import Event
from ledger.ledger import LedgerUnavailable
from ledger.segments import SpillUnavailable
from moderation.errors import TemporaryError
from tests.spilled_home import SpilledHome, decided, uploaded

SELLERS = ("s1", "s2", None)


class Killed(BaseException):
    """The process ends here."""


class World:
    """One gateway's disk: a ledger that another process may hold, a spill, and what callers were told is accepted."""

    def __init__(self, folder: Path) -> None:
        self.home = SpilledHome(folder, max_bytes=20_000)
        self.holder: sqlite3.Connection | None = None
        self.accepted: dict[str, Event] = {}
        self.next = 0

    def append(self) -> None:
        """One upload: its submission and its decision, in the ledger or behind one another in the spill."""
        name = f"u{self.next}"
        seller_id = SELLERS[self.next % len(SELLERS)]
        self.next += 1
        for event in (uploaded(name, seller_id), decided(name, seller_id, trace_id=f"{name:0>32}")):
            try:
                self._keep(event)
            except SpillUnavailable:
                return
            self.accepted[event.event_id] = event

    def repeat(self) -> None:
        """A caller sends again what it was told is accepted."""
        for event in list(self.accepted.values())[-2:]:
            self._keep(event)

    def fail(self) -> None:
        if self.holder is None:
            self.holder = sqlite3.connect(self.home.folder / "ledger.sqlite", isolation_level=None)
            self.holder.execute("BEGIN IMMEDIATE")

    def recover(self) -> None:
        if self.holder is not None:
            self.holder.execute("ROLLBACK")
            self.holder.close()
            self.holder = None

    def crash(self, torn: bytes) -> None:
        self.home.crash(torn)

    def drain(self) -> None:
        try:
            self.home.drain()
        except TemporaryError:
            assert self.holder is not None

    def drain_killed(self, owner: Any, name: str, *, after: bool) -> None:
        """A drain that is killed before or after one of its steps has done its work."""
        step: Callable[..., Any] = getattr(owner, name)

        def killed(*arguments: Any) -> None:
            if after:
                step(*arguments)
            raise Killed

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, killed)
            with suppress(Killed, TemporaryError):
                self.home.drain()
        self.home.crash()

    def check(self) -> None:
        for event in self.accepted.values():
            kept = self.home.ledger.get_event(event.event_id)
            assert self.home.spill.get_event(event.event_id) == event or (
                kept is not None and kept.event == event
            ), "what was accepted is always found"

    def end(self) -> None:
        self.recover()
        self.home.crash()
        self.home.drain()
        kept = [stored.event for stored in self.home.ledger.read()]
        assert {one.event_id: one for one in kept if one.event_id in self.accepted} == self.accepted
        assert len(kept) == len({one.event_id for one in kept})
        places = {one.event_id: place for place, one in enumerate(kept)}
        for name in (one.submission_id for one in kept if one.event_id.startswith("decision:")):
            assert places[f"submission:{name}"] < places[f"decision:{name}"]
        assert (self.home.files(), self.home.files(".quarantine")) == ([], [])
        self.home.spill.close()

    def _keep(self, event: Event) -> None:
        if not self.home.spill.holds(event.submission_id):
            try:
                self.home.ledger.append_each([[event]])
            except LedgerUnavailable:
                assert self.holder is not None
            else:
                return
        (outcome,) = self.home.put(event)
        if isinstance(outcome, Exception):
            raise outcome


STEPS = st.one_of(
    st.just(("append",)),
    st.just(("append",)),
    st.just(("repeat",)),
    st.just(("fail",)),
    st.just(("recover",)),
    st.just(("drain",)),
    st.tuples(st.just("crash"), st.binary(max_size=60)),
    st.tuples(
        st.just("drain killed"),
        st.sampled_from(["move_each", "forget", "drop", "waiting"]),
        st.booleans(),
    ),
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEPS, max_size=25))
def test_everything_accepted_is_in_the_ledger_once(steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        world.home.ledger._busy_s = 0.0
        world.home.ledger._local.connection.execute("PRAGMA busy_timeout = 0")
        for name, *arguments in steps:
            if name == "drain killed":
                step, after = arguments
                owner = world.home.ledger if step == "move_each" else world.home.spill
                world.drain_killed(owner, step, after=after)
            else:
                getattr(world, name)(*arguments)
            world.check()
        world.end()
