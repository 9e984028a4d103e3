"""A proof as a whole: real bundles and a golden set in, evidence out, judged under the shipped contract."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from kfp import dsl
from safetensors.numpy import load_file, save_file

from components.contract import read_contract
from components.home import Home
from components.policies import read_policies
from components.prove import proof, step
from components.prove.attacked import subjects_of
from components.prove.component import prove
from components.prove.heads import retired
from components.prove.lineage import record_cut_off
from components.prove.proof import Proof, ProveInputs
from components.prove.sets import golden_rows
from components.prove.shared import Shared
from ledger.store import ContentMissing, ContentStore
from moderation.attacks.hard_examples import INSPECT, MAX_EXAMPLES
from moderation.attacks.registry import ATTACKS
from moderation.bundle import build
from moderation.clock import SystemClock
from moderation.embedding_cache import EmbeddingCache
from moderation.encoders import ImageEncoder
from moderation.errors import BundleRejected, PermanentError
from moderation.gates import measures
from moderation.gates.evidence import Costs, Evidence, digest_rows
from moderation.gates.judging import MEASURES, judge
from moderation.gates.slicing import DERIVED
from moderation.gates.withstanding import hard_examples
from moderation.golden_set import latest_golden, looks
from moderation.image_copies import ImageCopies
from moderation.reading import IMAGE_FOLDER
from moderation.release import ReleaseContract, parse_release
from moderation.rescoring import Readings
from tests.prove_world import (
    LATER,
    POLICIES_TEXT,
    ProveWorld,
    decide,
    prove_world,
    record,
    renamed,
    small_contract,
    with_golden,
)
from tests.tiny_bundle import SEED, TinyRun
from tests.toy import POLICIES, toy_world

# Whatever test comes first, the golden set was looked at once and its embeddings are computed.
pytestmark = pytest.mark.usefixtures("evidence")

assert measures.__all__, "importing them makes the contract's measures known"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny: TinyRun) -> Iterator[ProveWorld]:
    """A home with a golden set, fresh truth, and a champion whose cut-off is known."""
    world = prove_world(tmp_path_factory.mktemp("prove"), tiny)
    with_golden(world)
    fresh = renamed(toy_world(240, seed=55), "fresh-", LATER)
    record(world.home, fresh, known_after=timedelta(hours=2))
    decide(world.home, fresh, probability=0.1)
    record_cut_off(world.home, world.champion, world.champion_table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "image_copies", _tiny_copies)  # the tower of small takes minutes
        yield world


def _tiny_copies(home: Home) -> ImageCopies:
    towers = home.folder.parent / "champion"
    read_blob = ContentStore(home.content).get
    return ImageCopies(
        ImageEncoder(towers / IMAGE_FOLDER), EmbeddingCache(home.embeddings), read_blob
    )


def _prove(inputs: ProveInputs, out: Path, contract: str | None = None) -> dict[str, float]:
    text = contract or small_contract()
    return step.run(inputs, text, POLICIES_TEXT, SEED, out=str(out), clock=SystemClock())


@pytest.fixture(scope="module")
def evidence(world: ProveWorld, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    folder = tmp_path_factory.mktemp("evidence")
    counts = _prove(world.inputs(), folder)
    assert counts["embeddings_computed"] > 0
    return Evidence.load(folder)


def test_evidence_says_who_was_compared(world: ProveWorld, evidence: Evidence) -> None:
    assert evidence.candidate == world.candidate.digest
    assert evidence.champion == world.champion.digest
    assert evidence.policies == POLICIES
    assert evidence.facts["looks at it"] == "1 of 50"
    assert evidence.facts["golden set"].startswith("version 1, ")
    assert [look.bundle for look in looks(world.home.golden)][0] == world.candidate.digest


def test_a_proof_that_shares_parts_with_another_says_the_same(
    world: ProveWorld, tmp_path: Path
) -> None:
    shared, alone = Shared(Readings()), Shared()
    taken = []
    for number, one in enumerate((alone, shared, shared)):
        out = tmp_path / str(number)
        step.run(world.inputs(), small_contract(), POLICIES_TEXT, SEED, out=str(out), shared=one)
        taken.append(Evidence.load(out))
    first, *others = taken
    for other in others:
        assert other.leaks == first.leaks
        for name, found in first.sets.items():
            assert other.sets[name].digest == found.digest
            said = other.sets[name].candidate.probability_NP
            assert np.array_equal(said, found.candidate.probability_NP)
        for attack, again in zip(first.attacks, other.attacks, strict=True):
            assert np.array_equal(attack.row_R, again.row_R)
            assert np.array_equal(attack.candidate_RP, again.candidate_RP)


def test_every_part_is_there_or_says_why_not(evidence: Evidence) -> None:
    taken = set(evidence.sets)
    taken |= {"attacks"} if any(a.family != "white_box" for a in evidence.attacks) else set()
    taken |= {"white_box"} if any(a.family == "white_box" for a in evidence.attacks) else set()
    taken |= {"leaks"} if evidence.leaks is not None else set()
    taken |= {"costs"} if evidence.costs is not None else set()
    parts = {"golden", "traffic", "fresh", "replay", "attacks", "white_box", "leaks", "costs"}
    assert taken | set(evidence.missing) == parts
    assert not taken & set(evidence.missing)
    assert not evidence.missing


def test_both_answered_the_same_rows(evidence: Evidence, world: ProveWorld) -> None:
    for name in ("golden", "traffic", "fresh"):
        found = evidence.sets[name]
        assert found.champion is not None
        assert found.candidate.bundle == world.candidate.digest
        assert found.champion.bundle == world.champion.digest
        for answers in (found.candidate, found.champion):
            assert answers.log_odds_NP.shape == (found.num_rows, len(POLICIES))
            assert np.isfinite(answers.log_odds_NP).all()
        assert not np.array_equal(found.candidate.log_odds_NP, found.champion.log_odds_NP)
        assert found.digest == digest_rows(found.item_id, found.truth_NP, found.weight)
        assert set(DERIVED) <= set(found.slices)
    assert all(one.startswith("gold-") for one in evidence.sets["golden"].item_id)
    assert all(one.startswith("fresh-") for one in evidence.sets["fresh"].item_id)
    assert set(evidence.sets["golden"].slices["evasive"]) == {"", "plain"}


def test_attacks_cover_guilty_and_innocent_rows(evidence: Evidence) -> None:
    golden = evidence.sets["golden"]
    by_name = {a.name: a for a in evidence.attacks if a.family != "white_box"}
    assert list(by_name) == list(ATTACKS)
    assert {a.severity for a in by_name.values()} == {1.0}
    for attack in by_name.values():
        assert attack.candidate_RP.shape == (len(attack.row_R), len(POLICIES))
        assert attack.champion_RP is not None
        guilty_R = (golden.truth_NP[attack.row_R] == 1).any(axis=1)
        assert guilty_R.any()
        assert not guilty_R.all()
        before_RP = golden.candidate.probability_NP[attack.row_R]
        assert not np.array_equal(attack.candidate_RP, before_RP)


def test_what_attacks_turned_is_exported_to_look_at(world: ProveWorld, evidence: Evidence) -> None:
    turned = hard_examples(evidence)[:MAX_EXAMPLES]
    assert turned, "the tiny bundle withstands everything: the test shows nothing"
    path = world.home.hard_examples / f"{evidence.candidate}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["submission_id"] for line in lines] == [one.submission_id for one in turned]
    assert {line["use"] for line in lines} == {INSPECT}
    assert all(line["attacked"] for line in lines)
    pictures = {name for line in lines for name in line["attacked"]["images"]}
    assert pictures
    assert all((path.parent / "images" / f"{name}.jpg").is_file() for name in pictures)


def test_erased_listing_is_exported_without_its_attacked_form(world: ProveWorld) -> None:
    golden = latest_golden(world.home.golden)
    assert golden is not None

    def gone(digest: str) -> bytes:
        raise ContentMissing(digest)

    rows = golden_rows(golden, POLICIES, gone)
    with_image = next(r for r, item in zip(rows.records, rows.items, strict=True) if item.images)
    find = subjects_of(rows, ["pistol"])
    assert find(str(with_image["submission_id"])) is None
    assert find("nobody") is None


def test_unlimited_white_box_attack_brings_scores_down(evidence: Evidence) -> None:
    golden = evidence.sets["golden"]
    boxes = [a for a in evidence.attacks if a.family == "white_box"]
    assert [(a.name, a.severity) for a in boxes] == [
        ("joint", float("inf")),
        ("pgd", 1.0),
        ("token_swap", 1.0),
    ]
    (row_R, after_RP) = (boxes[0].row_R, boxes[0].candidate_RP)
    guilty_RP = golden.truth_NP[row_R] == 1
    before_RP = golden.candidate.probability_NP[row_R]
    assert (after_RP[guilty_RP] < before_RP[guilty_RP]).all()
    assert boxes[0].champion_RP is None


def test_leaks_are_searched_in_the_snapshot(evidence: Evidence, world: ProveWorld) -> None:
    assert evidence.leaks is not None
    assert evidence.leaks.snapshot == world.table.digest
    assert evidence.leaks.rows == (world.table.role != "test").sum()


def _contract() -> ReleaseContract:
    """Return the shipped contract with few attacked listings."""
    contract = parse_release(small_contract().encode(), "release.yaml")
    known = tuple(gate for gate in contract.gates if gate.measure in MEASURES)
    return contract.model_copy(update={"gates": known})


def test_recorded_decisions_are_taken_again(evidence: Evidence, world: ProveWorld) -> None:
    replay = evidence.sets["replay"]
    assert replay.champion is not None
    assert (replay.champion.bundle, replay.candidate.bundle) == ("e" * 64, world.candidate.digest)
    assert (replay.champion.probability_NP == 0.1).all()
    assert "replayed decisions" in evidence.facts


def test_both_are_timed_on_traffic(evidence: Evidence) -> None:
    costs = evidence.costs
    assert costs is not None
    assert costs.champion_ms is not None
    assert costs.candidate_ms.shape == costs.champion_ms.shape
    rounds = 3  # so few listings show too little in one
    assert costs.candidate_ms.shape == (rounds, evidence.sets["traffic"].num_rows)
    assert (costs.candidate_ms > 0).all()
    assert costs.candidate_bytes > 1_000


def test_one_round_is_enough_when_every_cost_passes(world: ProveWorld) -> None:
    taking = Proof.open(
        world.inputs(), read_contract(small_contract()), read_policies(POLICIES_TEXT), SEED
    )
    fast_Kn = np.full((1, 320), 20.0)
    assert taking._passes_costs(Costs(fast_Kn, 1_000, fast_Kn, 1_000))
    assert not taking._passes_costs(Costs(fast_Kn * 50, 1_000, fast_Kn, 1_000))
    assert not taking._passes_costs(Costs(fast_Kn[:, :200], 1_000, fast_Kn[:, :200], 1_000))


def test_shipped_contract_judges_every_gate(evidence: Evidence) -> None:
    contract = _contract()
    judgement = judge(evidence, contract, seed=SEED)
    judged = {result.gate.id: result for result in judgement.results}
    assert set(judged) == {g.id for g in contract.gates} - {"better-on-fresh-truth"}
    assert not judgement.is_passing  # 84 listings certify nothing
    for part in evidence.missing:
        assert any(part in note for note in judgement.notes)
    assert judged["golden-average-precision"].state != "no_data"


def test_first_release_has_no_champion(world: ProveWorld, tmp_path: Path) -> None:
    _prove(world.inputs(champion=False), tmp_path)
    evidence = Evidence.load(tmp_path)
    assert evidence.champion is None
    sets = dict(evidence.sets)
    assert sets.pop("replay").champion is not None  # what was recorded
    assert all(found.champion is None for found in sets.values())
    assert all(attack.champion_RP is None for attack in evidence.attacks)
    assert "fresh" in evidence.sets


def test_parts_are_missing_by_name_without_a_golden_set(
    tiny: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = prove_world(tmp_path / "world", tiny)
    _prove(bare.inputs(), tmp_path / "out")
    evidence = Evidence.load(tmp_path / "out")
    assert "tidegate golden build" in evidence.missing["golden"]
    for part in ("attacks", "white_box", "leaks"):
        assert evidence.missing[part] == "the golden set was not taken, see there"
    assert "until when bundle" in evidence.missing["fresh"]
    assert set(evidence.sets) >= {"traffic"}
    assert not evidence.attacks
    assert "golden is missing: no golden set" in capsys.readouterr().out


def test_looks_run_out_and_the_set_is_missing(world: ProveWorld, tmp_path: Path) -> None:
    text = small_contract().replace("max_looks: 50", "max_looks: 1")
    assert "max_looks: 1 " in text
    inputs = replace(world.inputs(champion=False), release=str(world.champion.folder))
    inputs = replace(inputs, table=str(world.champion_table.folder))
    _prove(inputs, tmp_path, text)
    evidence = Evidence.load(tmp_path)
    assert "of 1 looks at golden set 1 are used" in evidence.missing["golden"]
    assert evidence.missing["attacks"] == "the golden set was not taken, see there"


def test_candidate_without_numbers_leaves_its_sets_missing(
    world: ProveWorld, tiny: TinyRun, tmp_path: Path
) -> None:
    ngram = Path(shutil.copytree(tiny.parts["ngram"], tmp_path / "ngram"))
    tensors = load_file(ngram / "ngram.safetensors")
    save_file(tensors | {"weights": tensors["weights"] * np.nan}, ngram / "ngram.safetensors")
    broken = build(tmp_path / "broken", tiny.parts | {"ngram": ngram}, tiny.description)
    _prove(replace(world.inputs(), release=str(broken.folder)), tmp_path / "out")
    evidence = Evidence.load(tmp_path / "out")
    assert not set(evidence.sets) & {"golden", "traffic", "fresh"}
    for part in ("golden", "traffic", "fresh"):
        assert "gives no scores: a signal is ok and not a number" in evidence.missing[part]
    assert not judge(evidence, _contract(), seed=SEED).is_passing


def test_proof_is_refused_when_it_would_prove_nothing(world: ProveWorld, tmp_path: Path) -> None:
    itself = replace(world.inputs(), champion=str(world.candidate.folder))
    with pytest.raises(PermanentError, match="compared with itself it proves nothing"):
        _prove(itself, tmp_path)
    elsewhere = replace(world.inputs(), table=str(world.champion_table.folder))
    with pytest.raises(PermanentError, match="prove it with the snapshot that it was trained on"):
        _prove(elsewhere, tmp_path)
    altered = Path(shutil.copytree(world.champion.folder, tmp_path / "altered"))
    (altered / "ensemble.json").write_text("{}")
    with pytest.raises(BundleRejected, match=r"ensemble\.json: was altered"):
        _prove(replace(world.inputs(), champion=str(altered)), tmp_path)


def test_proof_is_refused_when_a_policy_has_no_head(world: ProveWorld, tmp_path: Path) -> None:
    fourth = POLICIES_TEXT.replace("  - id: spam", "  - id: drugs").replace("SPAM_OR_SCAM", "DRUGS")
    spam = POLICIES_TEXT[POLICIES_TEXT.index("  - id: spam") :].partition("\noverrides")[0]
    text = fourth.replace("\noverrides", f"\n{spam}\noverrides")
    with pytest.raises(PermanentError, match="has no head for drugs, so nothing would be judged"):
        step.run(world.inputs(), small_contract(), text, SEED, out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_retired_policy_of_the_champion_is_named() -> None:
    told = retired(("weapons", "drugs"), ("weapons", "spam"))
    assert list(told) == ["comparison under spam"]


def test_proof_says_whether_anything_was_ever_decided(
    world: ProveWorld, tiny: TinyRun, tmp_path: Path
) -> None:
    later = _opened(world)
    later.take_replay()
    assert not later.evidence().nothing_decided
    bare = prove_world(tmp_path / "world", tiny)
    first = _opened(bare)
    first.take_replay()
    assert first.evidence().nothing_decided
    assert "no decision was recorded" in first.evidence().missing["replay"]
    bare.home.ledger.unlink()
    lost = _opened(bare)
    lost.take_replay()
    assert not lost.evidence().nothing_decided, "nobody can say what a lost ledger held"


def _opened(world: ProveWorld) -> Proof:
    contract, policies = read_contract(small_contract()), read_policies(POLICIES_TEXT)
    return Proof.open(world.inputs(champion=False), contract, policies, SEED)


def test_component_computes_nothing_a_second_time(
    evidence: Evidence, world: ProveWorld, tmp_path: Path
) -> None:
    artifacts = {
        name: kind(uri=str(tmp_path / name))
        for name, kind in (("evidence", dsl.Artifact), ("counts", dsl.Metrics))
    }
    prove.python_func(
        table=dsl.Dataset(uri=str(world.table.folder)),
        release=dsl.Model(uri=str(world.candidate.folder)),
        champion=str(world.champion.folder),
        home=str(world.home.folder),
        contract=small_contract(),
        policies=POLICIES_TEXT,
        profile="standard",
        seed=SEED,
        version="v",
        **artifacts,
    )
    again = Evidence.load(tmp_path / "evidence")
    assert again.facts.keys() == evidence.facts.keys()
    for name, found in evidence.sets.items():
        assert again.sets[name].digest == found.digest
        assert np.array_equal(again.sets[name].candidate.log_odds_NP, found.candidate.log_odds_NP)
    counts = artifacts["counts"].metadata
    assert counts["embeddings_computed"] == 0 < counts["embeddings_read"]
    assert counts["golden_rows"] == evidence.sets["golden"].num_rows > 50
    assert artifacts["evidence"].metadata["version"] == "v"
