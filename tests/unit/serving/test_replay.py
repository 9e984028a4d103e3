from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from ledger.events import from_decision
from moderation.errors import PermanentError
from moderation.scoring import Scores, ScoringItem
from serving.gateway.gate import UploadGate
from serving.replay import ReplayReport, replay_decision
from tests.unit.serving.fakes import BUNDLE, FakePredictor, an_upload


class FakeScorer:
    """Gives what a test sets, whatever it is asked."""

    def __init__(self, combined: Sequence[float], rescored: Sequence[float]) -> None:
        self.digest = BUNDLE
        self._combined, self._rescored = combined, rescored
        self.items: list[ScoringItem] = []

    def combine(
        self, signals_NPM: npt.NDArray[np.float64], signal_status_NPM: npt.NDArray[np.int8]
    ) -> npt.NDArray[np.float64]:
        assert signals_NPM.shape == signal_status_NPM.shape == (1, 3, 5)
        return np.array([self._combined])

    def score(self, items: list[ScoringItem]) -> Scores:
        self.items = items
        empty = np.zeros((1, 3, 5))
        rescored_NP = np.array([self._rescored])
        return Scores(
            rescored_NP, empty, empty.astype(np.int8), np.zeros((1, 3), np.int32), ((),), None, None
        )


RECORDED = [0.1 + 0.2, 0.05, 0.4999999]


@pytest.fixture
async def trace_id(client: httpx.AsyncClient, predictor: FakePredictor) -> str:
    predictor.probability_P = RECORDED
    found: str = (await client.post("/v1/decisions", json=an_upload())).json()["trace_id"]
    return found


def _replay(gate: UploadGate, trace_id: str, scorer: FakeScorer | None) -> ReplayReport:
    return replay_decision(
        trace_id, gate.ledger, store=gate.store, scorer=scorer, policies=gate.policies
    )


async def test_replay_is_exact_when_nothing_changed(gate: UploadGate, trace_id: str) -> None:
    scorer = FakeScorer(RECORDED, RECORDED)
    report = _replay(gate, trace_id, scorer)
    assert (report.is_exact, report.max_error, report.crossings) == (True, 0.0, ())
    item = scorer.items[0]
    assert item.title == "Blue bicycle"
    assert len(item.images) == 1
    assert np.asarray(item.behaviour_status).tolist().count(1) == 3


async def test_replay_names_the_policy_when_one_bit_differs(
    gate: UploadGate, trace_id: str
) -> None:
    report = _replay(gate, trace_id, FakeScorer([0.3, *RECORDED[1:]], RECORDED))
    assert not report.is_exact
    assert report.differences == ("weapons: the signals give 0.3, recorded is 0.30000000000000004",)


async def test_replay_reports_a_crossing_when_a_threshold_is_passed(
    gate: UploadGate, trace_id: str
) -> None:
    report = _replay(gate, trace_id, FakeScorer(RECORDED, [*RECORDED[:2], 0.5000001]))
    assert report.is_close
    assert [(c.policy, c.recorded_tier, c.rescored_tier) for c in report.crossings] == [
        ("spam", "tag", "review")
    ]


async def test_replay_is_not_close_when_scores_moved(gate: UploadGate, trace_id: str) -> None:
    report = _replay(gate, trace_id, FakeScorer(RECORDED, [0.3, 0.06, 0.4999999]))
    assert not report.is_close
    assert report.max_error == pytest.approx(0.01)


async def test_replay_refuses_when_the_bundle_is_another(gate: UploadGate, trace_id: str) -> None:
    scorer = FakeScorer(RECORDED, RECORDED)
    scorer.digest = "b" * 64
    for held in (scorer, None):
        with pytest.raises(PermanentError, match="cannot replay it"):
            _replay(gate, trace_id, held)


async def test_replay_refuses_when_the_policies_are_others(gate: UploadGate, trace_id: str) -> None:
    gate.policies = gate.policies.model_copy(update={"version": "later"})
    with pytest.raises(PermanentError, match="not later@"):
        _replay(gate, trace_id, FakeScorer(RECORDED, RECORDED))


def test_replay_refuses_when_the_trace_is_unknown(gate: UploadGate) -> None:
    with pytest.raises(PermanentError, match="no decision has the trace id"):
        _replay(gate, "0" * 32, None)


async def test_replay_refuses_when_the_inputs_are_gone(
    gate: UploadGate, trace_id: str, tmp_path: Path
) -> None:
    for path in (tmp_path / "content").rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(PermanentError, match="not in the content store"):
        _replay(gate, trace_id, FakeScorer(RECORDED, RECORDED))


async def test_replay_names_a_record_of_stage_1_that_its_signals_do_not_give(
    gate: UploadGate, trace_id: str
) -> None:
    decision = gate.ledger.get_decision(trace_id)
    assert decision is not None
    assert decision.stage_1 is not None
    changed = decision.model_copy(
        update={
            "submission_id": "other",
            "trace_id": "f" * 32,
            "decided_by": "stage_1",
            "stage_1": decision.stage_1.model_copy(update={"tier": "review"}),
        }
    )
    gate.ledger.append([from_decision(changed, recorded_at=decision.decided_at)])
    report = _replay(gate, "f" * 32, FakeScorer(RECORDED, RECORDED))
    assert report.differences == (
        "decided by: model again, recorded is stage_1",
        "stage 1: allow () again, recorded is review ()",
    )
