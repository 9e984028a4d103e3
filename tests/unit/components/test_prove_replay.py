"""Recorded traffic in a proof: the candidate is judged on what others decided, and let off only where nobody did."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from components.contract import read_contract
from components.judge.outcome import Outcome
from components.judge.step import JudgeInputs
from components.judge.step import run as judge
from components.policies import read_policies
from components.prove.proof import Proof
from ledger.erasures import Belongings
from ledger.ledger import SqliteLedger
from moderation.bundle import Bundle
from moderation.errors import GateRejected
from serving.predictor.admission import admit
from tests.prove_world import (
    CONTRACT_TEXT,
    LATER,
    POLICIES_TEXT,
    ProveWorld,
    decide,
    prove_world,
    record,
    renamed,
    small_contract,
)
from tests.tiny_bundle import SEED, TinyRun
from tests.toy import ToyWorld, toy_world

POLICIES = read_policies(POLICIES_TEXT)


@pytest.fixture
def world(tiny: TinyRun, tmp_path: Path) -> ProveWorld:
    return prove_world(tmp_path, tiny)


def _uploaded(world: ProveWorld, prefix: str, *, seed: int = 55, num_rows: int = 24) -> ToyWorld:
    traffic = renamed(toy_world(num_rows, seed=seed), prefix, LATER)
    record(world.home, traffic, known_after=timedelta(hours=2))
    return traffic


def _taken(world: ProveWorld, *, champion: bool = True) -> Proof:
    proof = Proof.open(
        world.inputs(champion=champion), read_contract(small_contract()), POLICIES, SEED
    )
    proof.take_replay()
    return proof


def _erase(world: ProveWorld, seller_id: str) -> None:
    at = datetime(2027, 9, 1, tzinfo=UTC)
    SqliteLedger(world.home.ledger).erase(seller_id, lambda _: Belongings(), at)


def test_what_another_release_decided_is_replayed(world: ProveWorld) -> None:
    decide(world.home, _uploaded(world, "fresh-"), 0.1)
    proof = _taken(world)
    assert proof.sets["replay"].num_rows == 24
    assert not proof.evidence().only_own_decisions


def test_own_decisions_alone_leave_nothing_to_replay(world: ProveWorld) -> None:
    decide(world.home, _uploaded(world, "fresh-"), 0.1, release=world.candidate.digest)
    proof = _taken(world)
    evidence = proof.evidence()
    assert not proof.sets
    assert evidence.only_own_decisions
    assert not evidence.nothing_decided
    told = evidence.missing["replay"]
    assert told.startswith("all 24 decisions that a release took")
    assert told.endswith("the candidate's own: taken again they show nothing")


@pytest.mark.parametrize("by_others", [1, 6])
def test_a_few_decisions_of_another_release_are_replayed_alone(
    world: ProveWorld, by_others: int
) -> None:
    decide(world.home, _uploaded(world, "fresh-"), 0.1, release=world.candidate.digest)
    theirs = _uploaded(world, "theirs-", seed=56, num_rows=by_others)
    decide(world.home, theirs, 0.9)
    proof = _taken(world)
    evidence = proof.evidence()
    assert not evidence.only_own_decisions
    assert not evidence.missing
    found = evidence.sets["replay"]
    assert found.item_id.tolist() == [row.submission.submission_id for row in theirs.rows]
    assert found.champion is not None
    assert found.champion.bundle == "e" * 64
    assert found.weight.tolist() == [1.0] * by_others
    assert evidence.facts["not replayed"] == "24 decided by the candidate itself"


def test_lost_inputs_of_another_release_are_no_own_decisions(world: ProveWorld) -> None:
    decide(world.home, _uploaded(world, "fresh-"), 0.1, release=world.candidate.digest)
    theirs = _uploaded(world, "theirs-", seed=56, num_rows=2)
    decide(world.home, theirs, 0.9)
    ledger = SqliteLedger(world.home.ledger)
    for row in theirs.rows:
        decision = ledger.get_decision_of(row.submission.submission_id)
        assert decision is not None
        digest = decision.input_digests["listing"]
        (world.home.content / digest[:2] / digest[2:4] / digest).unlink()
    evidence = _taken(world).evidence()
    assert not evidence.only_own_decisions
    assert "2 inputs erased" in evidence.missing["replay"]


@pytest.mark.parametrize(("erased", "is_own"), [(23, True), (24, False)])
def test_decisions_that_nobody_can_read_are_not_taken_for_own_ones(
    world: ProveWorld, erased: int, is_own: bool
) -> None:
    decide(world.home, _uploaded(world, "fresh-"), 0.1, release=world.candidate.digest)
    gone = _uploaded(world, "gone-", seed=56, num_rows=erased)
    decide(world.home, gone, 0.9, seller_id="gone")
    _erase(world, "gone")
    evidence = _taken(world).evidence()
    assert evidence.only_own_decisions is is_own
    if not is_own:
        assert f"who took {erased} others is not known" in evidence.missing["replay"]


def test_decisions_of_erased_sellers_make_no_first_release(world: ProveWorld) -> None:
    decide(world.home, _uploaded(world, "gone-"), 0.9, seller_id="gone")
    _erase(world, "gone")
    evidence = _taken(world, champion=False).evidence()
    assert not evidence.nothing_decided
    assert not evidence.only_own_decisions
    said = "all 24 recorded decisions are of erased sellers: none can be read"
    assert evidence.missing["replay"].startswith(said)


def _few_gates() -> str:
    """Return the shipped contract with its gates of replay, as a world this small can pass them, and one of size."""
    content = yaml.safe_load(CONTRACT_TEXT)
    objective = content["promotion"]["objective"]
    kept = [
        gate | ({"min_rows": 1, "limit": 0.999} if gate["set"] == "replay" else {})
        for gate in content["gates"]
        if gate["set"] == "replay" or gate["id"] in ("cost-size", objective)
    ]
    return yaml.safe_dump(content | {"gates": kept, "profiles": {"standard": {}}})


def _judged(world: ProveWorld, contract: str, folder: Path) -> Outcome:
    proof = Proof.open(world.inputs(champion=False), read_contract(contract), POLICIES, SEED)
    proof.take_replay()
    proof.take_traffic()
    proof.take_costs()
    proof.evidence().save(folder / "evidence")
    inputs = JudgeInputs(
        str(folder / "evidence"), str(world.candidate.folder), str(world.home.folder)
    )
    return judge(inputs, contract, "standard", SEED, pack=str(folder / "pack"))


def test_the_serving_champion_passes_again_under_an_edited_contract(
    world: ProveWorld, tmp_path: Path
) -> None:
    decide(world.home, _uploaded(world, "fresh-"), 0.1, release=world.candidate.digest)
    contract = _few_gates()
    outcome = _judged(world, contract, tmp_path)
    assert (outcome.state, outcome.reasons) == ("proposed", ())
    (note,) = (note for note in outcome.notes if note.startswith("the candidate itself decided"))
    assert "replay-shift-up" in note
    kept = Bundle.open(world.home.bundles / world.candidate.digest)
    said = admit(kept, read_contract(contract).digest, accepts="standard")
    assert said is not None
    assert note in said.notes
    judgement = json.loads((tmp_path / "pack" / "judgement.json").read_text())
    assert note in judgement["notes"]
    assert "the candidate itself decided all recorded traffic" in (
        tmp_path / "pack" / "index.html"
    ).read_text(encoding="utf-8")


def test_one_decision_of_another_release_brings_the_replay_back(
    world: ProveWorld, tmp_path: Path
) -> None:
    decide(world.home, _uploaded(world, "fresh-"), 0.1, release=world.candidate.digest)
    decide(world.home, _uploaded(world, "theirs-", seed=56, num_rows=1), 0.9)
    contract = _few_gates()
    outcome = _judged(world, contract, tmp_path)
    assert outcome.state == "blocked"
    assert any(reason.startswith("replay-shift-down") for reason in outcome.reasons)
    kept = Bundle.open(world.home.bundles / world.candidate.digest)
    with pytest.raises(GateRejected, match="replay-shift-down"):
        admit(kept, read_contract(contract).digest, accepts="standard")
