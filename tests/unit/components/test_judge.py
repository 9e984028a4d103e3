"""The judge step: verdicts become an outcome, an attestation beside the kept bundle, and a pack."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from kfp import dsl

from components.home import Home
from components.judge.component import judge
from components.judge.outcome import Outcome
from components.judge.step import JudgeInputs, _golden_roc, caps_of, run
from moderation import attestation
from moderation.bundle import Bundle
from moderation.clock import SimulatedClock
from moderation.errors import GateRejected, InvalidSnapshot, PermanentError, PolicyError
from moderation.gates.evidence import Evidence
from moderation.gates.judging import Judgement
from moderation.pack import load_record
from tests.judged import BAD, CONTRACT_TEXT, contract, contract_text, evidence_about, judged

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def _kept(home: Home, bundle: Bundle) -> Bundle:
    return Bundle.open(home.bundles / bundle.digest)


def test_judge_proposes_and_attests_when_all_passes(home: Home, tiny_bundle: Bundle) -> None:
    done = judged(tiny_bundle, home)
    said = attestation.require_passing(_kept(home, tiny_bundle), contract().digest)
    assert (done.state, done.reasons, done.champion) == ("proposed", (), None)
    assert said.digest == done.attestation
    assert (said.kind, said.champion, said.profile) == ("gates", None, "standard")
    assert any("first release: no champion" in note for note in said.notes)
    assert set(said.sets) == {"golden"}
    assert said.metrics["ranks/weapons"] is not None
    assert attestation.read(tiny_bundle) == [], "the bundle that came in is left as it was"


def test_judge_blocks_and_says_why_when_a_gate_fails(home: Home, tiny_bundle: Bundle) -> None:
    done = judged(tiny_bundle, home, separation=BAD)
    assert done.state == "blocked"
    assert done.reasons[0].startswith("ranks: fail: ")
    with pytest.raises(GateRejected, match="blocked on .* by ranks"):
        attestation.require_passing(_kept(home, tiny_bundle), contract().digest)


def test_judge_blocks_when_nothing_applies(home: Home, tiny_bundle: Bundle, tmp_path: Path) -> None:
    evidence_about(tiny_bundle.digest).save(tmp_path / "first")
    inputs = JudgeInputs(str(tmp_path / "first"), str(tiny_bundle.folder), str(home.folder))
    done = run(inputs, contract_text("better"), "standard", 1, pack=str(tmp_path / "pack"))
    assert done.state == "blocked"
    assert "no gate passed" in done.reasons[0]


def test_judge_blocks_when_a_profile_lets_everything_off(
    home: Home, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    Evidence(tiny_bundle.digest, None, tiny_bundle.manifest.policies).save(tmp_path / "empty")
    inputs = JudgeInputs(str(tmp_path / "empty"), str(tiny_bundle.folder), str(home.folder))
    done = run(inputs, CONTRACT_TEXT, "lenient", 1, pack=str(tmp_path / "pack"))
    assert (done.state, done.profile) == ("blocked", "lenient")
    assert done.reasons == ("no gate passed: where nothing is shown, nothing is passed",)
    assert load_record(tmp_path / "pack" / "judgement.json").state == "blocked"


def test_judge_records_the_champion_it_compared_with(home: Home, tiny_bundle: Bundle) -> None:
    done = judged(tiny_bundle, home, champion="c" * 64)
    said = attestation.require_passing(_kept(home, tiny_bundle), contract().digest)
    assert done.champion == said.champion == "c" * 64
    assert {verdict.gate for verdict in said.verdicts} == {"ranks", "better"}


def test_newer_block_takes_an_earlier_pass_back(home: Home, tiny_bundle: Bundle) -> None:
    clock = SimulatedClock(NOON)
    judged(tiny_bundle, home, clock=clock)
    clock.advance(60)
    judged(tiny_bundle, home, separation=BAD, clock=clock)
    with pytest.raises(GateRejected, match="tidegate gates show"):
        attestation.require_passing(_kept(home, tiny_bundle), contract().digest)


def test_judge_refuses_evidence_about_another_bundle(
    home: Home, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    evidence_about("d" * 64).save(tmp_path / "evidence")
    inputs = JudgeInputs(str(tmp_path / "evidence"), str(tiny_bundle.folder), str(home.folder))
    with pytest.raises(PermanentError, match="evidence is about bundle dddd"):
        run(inputs, CONTRACT_TEXT, "standard", 1, pack=str(tmp_path / "pack"))
    own = replace(inputs, evidence=_evidence(tmp_path, tiny_bundle))
    with pytest.raises(PolicyError, match="no profile none"):
        run(own, CONTRACT_TEXT, "none", 1, pack=str(tmp_path / "pack"))
    nothing = replace(inputs, evidence=str(tmp_path))
    with pytest.raises(InvalidSnapshot, match="score the sets again"):
        run(nothing, CONTRACT_TEXT, "standard", 1, pack=str(tmp_path / "pack"))
    assert not home.bundles.exists(), "what could not be judged is not kept"


def _evidence(folder: Path, bundle: Bundle) -> str:
    evidence_about(bundle.digest).save(folder / "own")
    return str(folder / "own")


def test_caps_close_every_policy_when_none_is_named() -> None:
    judgement = Judgement((), {"": "suspend", "spam": "block"}, ())
    assert caps_of(judgement, ("weapons", "spam")) == {"weapons": "suspend", "spam": "block"}
    assert caps_of(Judgement((), {"spam": "block"}, ()), ("weapons", "spam")) == {"spam": "block"}
    both = Judgement((), {"spam": "block", "": "suspend"}, ())
    assert caps_of(both, ("spam",)) == {"spam": "block"}


def test_outcome_reads_back_and_refuses_damage(
    home: Home, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    done = judged(tiny_bundle, home, separation=BAD)
    path = str(tmp_path / "deep" / "outcome.json")
    done.save(path)
    assert Outcome.load(path) == done
    Path(path).write_text("[]")
    with pytest.raises(PermanentError, match="judge the bundle again"):
        Outcome.load(path)


def test_component_leaves_what_the_dashboard_draws(
    home: Home, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    kinds = {
        "outcome": dsl.Artifact,
        "pack": dsl.Artifact,
        "page": dsl.HTML,
        "summary": dsl.Markdown,
        "verdicts": dsl.Metrics,
        "curve": dsl.ClassificationMetrics,
    }
    made = {name: kind(uri=str(tmp_path / "out" / name)) for name, kind in kinds.items()}
    state = judge.python_func(
        evidence=dsl.Artifact(uri=_evidence(tmp_path, tiny_bundle)),
        release=dsl.Model(uri=str(tiny_bundle.folder)),
        home=str(home.folder),
        contract=CONTRACT_TEXT,
        profile="standard",
        seed=1,
        version="v",
        **made,
    )
    assert state == "proposed"
    assert all(Path(artifact.path).exists() for artifact in made.values())
    assert made["verdicts"].metadata["ranks"] == 1
    assert 0.5 < made["verdicts"].metadata["ranks.weapons"] <= 1
    assert made["verdicts"].metadata["gates_blocking"] == 0
    assert made["curve"].metadata["confidenceMetrics"][-1]["recall"] == 1
    assert Path(made["page"].path).read_text().startswith("<!doctype html>")
    assert load_record(Path(made["pack"].path) / "judgement.json").state == "proposed"
    assert json.loads(Path(made["outcome"].path).read_text())["bundle"] == tiny_bundle.digest


def test_curve_of_a_broken_head_is_that_of_the_others(tiny_bundle: Bundle) -> None:
    evidence = evidence_about(tiny_bundle.digest)
    golden = evidence.sets["golden"]
    whole = _golden_roc(evidence)
    said_NP = golden.candidate.probability_NP.copy()
    said_NP[:, 0] = np.nan
    one = replace(golden, candidate=replace(golden.candidate, probability_NP=said_NP))
    curve = _golden_roc(replace(evidence, sets={"golden": one}))
    assert np.isfinite(curve[1:]).all()
    assert len(curve) > 2
    assert curve != whole
    none = replace(golden.candidate, probability_NP=np.full_like(said_NP, np.nan))
    assert _golden_roc(replace(evidence, sets={"golden": replace(golden, candidate=none)})) == []
