"""The gates' benchmark records traffic again when its champion changed, and goes on where it was interrupted."""

from datetime import timedelta
from pathlib import Path

from benchmarks.gates.traffic import record_traffic
from components.policies import read_policies
from ledger.events import EventKind, to_decision
from ledger.ledger import SqliteLedger
from ledger.recorded import answer_of
from tests.prove_world import LATER, POLICIES_TEXT, prove_world, record, renamed
from tests.tiny_bundle import TinyRun
from tests.toy import START, toy_world


def test_traffic_is_of_one_champion(tiny: TinyRun, tmp_path: Path) -> None:
    world = prove_world(tmp_path, tiny)
    record(world.home, renamed(toy_world(40, seed=5), "t-", LATER), known_after=timedelta(hours=2))
    policies, at = read_policies(POLICIES_TEXT), START + LATER + timedelta(days=30)
    for bundle in (world.champion, world.champion, world.candidate):
        count = record_traffic(world.home, bundle, policies, at, most=20)
        found = SqliteLedger(world.home.ledger).read((EventKind.DECISION,))
        answers = [answer_of(to_decision(one.event)) for one in found]
        assert len(answers) == count == 20
        assert {one.release for one in answers if one is not None} == {bundle.digest}
