"""The parity gate: what passes, what is refused and why, and whom a passing comparison lets answer."""

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from moderation import attestation
from moderation.attestation import PARITY, Attestation, Verdict, latest_passing, require_parity
from moderation.bundle import Bundle
from moderation.clock import SimulatedClock
from moderation.derived_graphs import derive, derived_folder
from moderation.engines.engine import Array, Engine, EngineFacts, EngineName
from moderation.engines.onnx_runtime import OnnxRuntimeEngine, open_reference
from moderation.engines.quantise import quantise
from moderation.errors import BundleRejected, GateRejected
from moderation.gates.parity import (
    ROWS,
    Compared,
    compare,
    judge_parity,
    parity_statement,
)
from moderation.scoring import Scorer
from serving.engines import EngineChoice, facts_of, scorer_with, trusted_scorer
from tests.parity_world import RELEASE_FILE, contract, toy_parity_rows
from tests.toy import POLICIES
from tidegate.engines import attest_engine, engine_rules

ENGINE: EngineName = "openvino-int8"
RULES = engine_rules(contract()).parity
FACTS = EngineFacts(name=ENGINE, library="openvino 1", machine="x86_64 avx2")
THRESHOLDS = {policy: {"review": 0.4, "block": 0.8} for policy in POLICIES}
PASS = Verdict(gate=ROWS, verdict="pass", reason="448 rows")
FAIL = Verdict(gate="parity-tier-flips", verdict="fail", reason="0.5, at most 0.02")


@pytest.fixture
def bundle(bundle_copy: Path) -> Bundle:
    return Bundle.open(bundle_copy)


def _judged(other_NP: np.ndarray, reference_NP: np.ndarray) -> dict[str, str]:
    compared = Compared(reference_NP, other_NP, POLICIES, THRESHOLDS)
    verdicts, _ = judge_parity(compared, toy_parity_rows(), RULES, resamples=400, seed=3)
    return {one.gate: one.verdict for one in verdicts}


def _reference() -> np.ndarray:
    rows, rng = toy_parity_rows(), np.random.default_rng(1)
    spread_NP = rng.uniform(0, 0.6, rows.truth_NP.shape)
    return np.asarray(spread_NP + 0.35 * (rows.truth_NP == 1))


def test_equal_scores_pass_every_check() -> None:
    judged = _judged(_reference(), _reference())
    assert set(judged.values()) == {"pass"}
    assert len(judged) == 4 + len(POLICIES)


def test_one_probability_far_off_is_refused() -> None:
    other_NP = _reference()
    other_NP[5, 0] += 0.2
    assert _judged(other_NP, _reference())["parity-max-difference"] == "fail"


def test_many_probabilities_a_little_off_are_refused() -> None:
    judged = _judged(_reference() + 0.04, _reference())
    assert judged["parity-max-difference"] == "pass"
    assert judged["parity-quantile-difference"] == "fail"


def test_listings_that_change_tier_are_refused() -> None:
    reference_NP = np.full(_reference().shape, 0.3999)
    other_NP = reference_NP.copy()
    other_NP[:30] = 0.4001
    judged = _judged(other_NP, reference_NP)
    assert judged["parity-quantile-difference"] == "pass"
    assert judged["parity-tier-flips"] == "fail"


def test_flips_that_few_rows_cannot_bound_are_not_certified() -> None:
    reference_NP = np.full(_reference().shape, 0.3999)
    other_NP = reference_NP.copy()
    other_NP[:6] = 0.4001
    assert _judged(other_NP, reference_NP)["parity-tier-flips"] == "not_certified"


def test_lost_ranking_under_one_policy_is_refused() -> None:
    reference_NP, rng = _reference(), np.random.default_rng(4)
    other_NP = reference_NP.copy()
    other_NP[:, 1] = rng.permutation(other_NP[:, 1])
    judged = _judged(other_NP, reference_NP)
    refused = {name for name in judged if "precision" in name and judged[name] != "pass"}
    assert refused == {f"parity-precision-{POLICIES[1]}"}


def test_too_few_rows_are_refused_before_anything_is_compared() -> None:
    rows = toy_parity_rows()
    few = dataclasses.replace(rows, items=rows.items[: RULES.min_rows - 1])
    compared = Compared(_reference(), _reference(), POLICIES, THRESHOLDS)
    verdicts, _ = judge_parity(compared, few, RULES, resamples=400, seed=3)
    assert [(one.gate, one.verdict) for one in verdicts] == [(ROWS, "no_data")]
    assert f"{RULES.min_rows} needed" in verdicts[0].reason


def test_too_few_violations_of_one_policy_are_refused() -> None:
    rows = toy_parity_rows()
    truth_NP = rows.truth_NP.copy()
    truth_NP[:, 2] = 0
    compared = Compared(_reference(), _reference(), POLICIES, THRESHOLDS)
    rare = dataclasses.replace(rows, truth_NP=truth_NP)
    verdicts, _ = judge_parity(compared, rare, RULES, resamples=400, seed=3)
    assert {one.gate for one in verdicts if one.blocks} == {f"parity-precision-{POLICIES[2]}"}


def test_a_good_int8_passes_on_real_rows_and_then_answers(bundle: Bundle) -> None:
    derive(bundle, ENGINE, quantise)
    choice = EngineChoice(ENGINE)
    with pytest.raises(GateRejected, match="never compared with onnxruntime; run `tidegate bundle"):
        trusted_scorer(bundle, choice, RELEASE_FILE)
    said = attest_engine(bundle, choice, toy_parity_rows(), contract(), seed=3)
    assert said.is_passing, [one for one in said.verdicts if one.blocks]
    assert said.engine == facts_of(bundle, choice)
    assert trusted_scorer(bundle, choice, RELEASE_FILE).engine == ENGINE
    assert latest_passing(bundle) is None  # it says nothing about the bundle's own gates


def test_a_damaged_int8_is_refused_on_real_rows_and_does_not_answer(bundle: Bundle) -> None:
    derive(bundle, ENGINE, quantise)
    _damage(derived_folder(bundle, ENGINE) / "text_tower.onnx")
    choice = EngineChoice(ENGINE)
    said = attest_engine(bundle, choice, toy_parity_rows(), contract(), seed=3)
    assert not said.is_passing
    assert {"parity-tier-flips", "parity-max-difference"} & {
        one.gate for one in said.verdicts if one.verdict == "fail"
    }
    with pytest.raises(GateRejected, match=r"refused by .*at most"):
        trusted_scorer(bundle, choice, RELEASE_FILE)


def test_graphs_changed_after_the_comparison_do_not_answer(bundle: Bundle) -> None:
    derive(bundle, ENGINE, quantise)
    choice = EngineChoice(ENGINE)
    _append(bundle, PASS, facts=facts_of(bundle, choice), digest=contract().digest)
    assert trusted_scorer(bundle, choice, RELEASE_FILE).engine == ENGINE
    _damage(derived_folder(bundle, ENGINE) / "text_tower.onnx")
    with pytest.raises(GateRejected, match=r"comparison was under graphs \w+, here \w+"):
        trusted_scorer(bundle, choice, RELEASE_FILE)


def test_the_reference_needs_no_comparison(bundle: Bundle) -> None:
    assert trusted_scorer(bundle, EngineChoice(), Path("missing.yaml")).engine == "onnxruntime"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"machine": "aarch64"}, "machine x86_64 avx2, here aarch64"),
        ({"library": "openvino 2"}, "library openvino 1, here openvino 2"),
        ({"graphs": "a" * 64}, "graphs None, here aaaa"),
    ],
)
def test_a_comparison_holds_for_its_own_facts(
    bundle: Bundle, change: dict[str, str], said: str
) -> None:
    _append(bundle, PASS)
    assert require_parity(bundle, FACTS, "c" * 64).engine == FACTS
    with pytest.raises(GateRejected, match=said):
        require_parity(bundle, FACTS.model_copy(update=change), "c" * 64)


def test_a_comparison_holds_for_its_contract_and_engine(bundle: Bundle) -> None:
    _append(bundle, PASS)
    with pytest.raises(GateRejected, match="contract cccc.*, here dddd"):
        require_parity(bundle, FACTS, "d" * 64)
    other = FACTS.model_copy(update={"name": "openvino-bf16"})
    with pytest.raises(GateRejected, match="openvino-bf16 may not answer .* never compared"):
        require_parity(bundle, other, "c" * 64)


def test_the_newest_comparison_decides(bundle: Bundle) -> None:
    _append(bundle, PASS)
    _append(bundle, PASS, FAIL, minute=1)
    with pytest.raises(GateRejected, match="refused by parity-tier-flips"):
        require_parity(bundle, FACTS, "c" * 64)
    _append(bundle, PASS, minute=2)
    assert require_parity(bundle, FACTS, "c" * 64).kind == PARITY


class _Broken:
    """An engine whose answers are no numbers."""

    name: EngineName = "openvino-bf16"

    def __init__(self, folder: Path) -> None:
        self._engine = OnnxRuntimeEngine(folder / "model.onnx")

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        return {name: array * np.nan for name, array in self._engine.run(inputs).items()}


def test_answers_that_are_no_numbers_are_refused(tiny_bundle: Bundle) -> None:
    broken = Scorer(tiny_bundle, open_engine=_open_broken)
    rows = dataclasses.replace(toy_parity_rows(), items=toy_parity_rows().items[:8])
    with pytest.raises(BundleRejected, match="engine openvino-bf16 gives no scores"):
        compare(Scorer(tiny_bundle, open_engine=open_reference), broken, rows)


def _open_broken(folder: Path) -> Engine:
    return _Broken(folder)  # type: ignore[return-value]


def test_engines_are_compared_on_one_bundle(tiny_bundle: Bundle) -> None:
    one = scorer_with(tiny_bundle, EngineChoice())
    other = scorer_with(tiny_bundle, EngineChoice())
    other.digest = "f" * 64
    with pytest.raises(BundleRejected, match="two bundles"):
        compare(one, other, toy_parity_rows())


def _append(
    bundle: Bundle,
    *verdicts: Verdict,
    facts: EngineFacts = FACTS,
    digest: str = "c" * 64,
    minute: int = 0,
) -> Attestation:
    clock = SimulatedClock(datetime(2026, 5, 1, 12, minute, tzinfo=UTC))
    statement = parity_statement(facts, toy_parity_rows(), digest, verdicts, {})
    return attestation.append(bundle, statement, clock=clock, tool="tests 1")


def _damage(path: Path) -> None:
    """Change the scales of one layer, as a wrong export would."""
    model = onnx.load(path)
    scales = [one for one in model.graph.initializer if one.name.endswith("_scale")]
    scale = numpy_helper.to_array(scales[-1])
    scales[-1].CopyFrom(numpy_helper.from_array(-30 * scale, scales[-1].name))
    path.write_bytes(model.SerializeToString())
