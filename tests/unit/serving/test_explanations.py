"""Explanations are a reviewer's: who may ask, what is said where none can be given; no upload depends on it."""

from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from ledger.keys import KeyRing
from ledger.ledger import SqliteLedger
from moderation.prefilter import Incoming
from moderation.stage_1 import StageSignal
from serving.gateway.app import create_app
from serving.gateway.auth import Callers
from serving.gateway.explanations import ExplainerClient
from serving.gateway.gate import UploadGate
from serving.gateway.keeping import CONTENT_SPILLED
from tests.kept import a_keeper, with_budget
from tests.small_disk import held, unwritable
from tests.unit.serving.conftest import a_cascade
from tests.unit.serving.fakes import TOKENS, FakePredictor, an_upload

REVIEWER = {"Authorization": "Bearer r3view"}


async def _trace(client: httpx.AsyncClient) -> str:
    response = await client.post("/v1/decisions", json=an_upload())
    return str(response.json()["trace_id"])


async def test_a_submitter_gets_no_explanation(client: httpx.AsyncClient) -> None:
    trace_id = await _trace(client)
    response = await client.get(f"/v1/decisions/{trace_id}/explanation")
    assert (response.status_code, response.json()["error"]) == (403, "Forbidden")
    response = await client.get(f"/v1/decisions/{'0' * 32}/explanation")
    assert response.status_code == 403, "nor learns which decisions there are"
    response = await client.get(
        f"/v1/decisions/{trace_id}/explanation", headers={"Authorization": "Bearer guess"}
    )
    assert response.status_code == 401


async def test_without_an_explainer_a_reviewer_is_told_how_to_start_one(
    client: httpx.AsyncClient,
) -> None:
    path = f"/v1/decisions/{await _trace(client)}/explanation"
    response = await client.get(path, headers=REVIEWER)
    assert (response.status_code, response.json()["error"]) == (404, "NotOffered")
    assert "tidegate serve --explainer" in response.json()["message"]


async def test_an_unknown_decision_is_not_found(client: httpx.AsyncClient) -> None:
    response = await client.get(f"/v1/decisions/{'0' * 32}/explanation", headers=REVIEWER)
    assert response.status_code == 404


@pytest.fixture
async def other(gate: UploadGate, client: httpx.AsyncClient) -> httpx.AsyncClient:
    """Return the client of a gateway whose explainer is not there; port 9 of the loopback discards nothing."""
    app = create_app(gate, Callers(TOKENS), explainer=ExplainerClient("http://127.0.0.1:9", 2.0))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=REVIEWER)


async def test_a_dead_explainer_is_told_and_uploads_go_on(
    client: httpx.AsyncClient, other: httpx.AsyncClient
) -> None:
    trace_id = await _trace(client)
    response = await other.get(f"/v1/decisions/{trace_id}/explanation")
    assert (response.status_code, response.json()["error"]) == (503, "ExplainerUnavailable")
    assert "Retry-After" in response.headers
    assert len(await _trace(client)) == 32


async def test_a_decision_without_a_model_has_no_score_to_explain(
    client: httpx.AsyncClient, other: httpx.AsyncClient, predictor: FakePredictor
) -> None:
    await predictor.stop()
    trace_id = await _trace(client)
    response = await other.get(f"/v1/decisions/{trace_id}/explanation")
    assert response.status_code == 404
    assert "no model answered" in response.json()["message"]


async def test_a_policy_that_was_not_scored_is_refused(
    client: httpx.AsyncClient, other: httpx.AsyncClient
) -> None:
    path = f"/v1/decisions/{await _trace(client)}/explanation"
    response = await other.get(path, params={"policy": "astrology"})
    assert response.status_code == 400
    assert "weapons" in response.json()["message"]


async def test_what_was_erased_cannot_be_explained(
    client: httpx.AsyncClient, other: httpx.AsyncClient, gate: UploadGate
) -> None:
    trace_id = await _trace(client)
    decision = gate.ledger.get_decision(trace_id)
    assert decision is not None
    for path in gate.store._folder.rglob(f"*{decision.input_digests['image.0'][:16]}*"):
        path.unlink()
    response = await other.get(f"/v1/decisions/{trace_id}/explanation")
    assert response.status_code == 404
    assert "is gone" in response.json()["message"]


class LetsGo:
    """A stage that lets everything go."""

    name, cost = "behaviour", 0.2

    def look(self, upload: Incoming) -> Sequence[StageSignal]:
        return [StageSignal(name=self.name, status="ok", is_decisive=True)]


async def test_what_stage_1_decided_has_no_score_to_explain(
    client: httpx.AsyncClient, other: httpx.AsyncClient, gate: UploadGate, tmp_path: Path
) -> None:
    gate.cascade = a_cascade(tmp_path, gate.ledger, gate.clock, more=[LetsGo()])
    path = f"/v1/decisions/{await _trace(client)}/explanation"
    for asked in (other, client):
        response = await asked.get(path, headers=REVIEWER)
        assert (response.status_code, response.json()["error"]) == (404, "NotFound")
        assert response.json()["message"].startswith("stage 1 decided")


async def test_a_spilled_decision_is_explained_as_it_is_found(
    client: httpx.AsyncClient, other: httpx.AsyncClient, gate: UploadGate, tmp_path: Path
) -> None:
    KeyRing(tmp_path / "keys.sqlite").of(["seller-1"])
    gate.keeper.close()
    ledger = SqliteLedger(tmp_path / "ledger.sqlite", busy_s=0.15)
    gate.keeper = a_keeper(tmp_path, ledger, with_budget(150), spill_folder=tmp_path / "spill")
    with held(tmp_path / "ledger.sqlite"):
        path = f"/v1/decisions/{await _trace(client)}"
        assert (await other.get(path)).status_code == 200
        response = await other.get(f"{path}/explanation")
    assert response.json()["error"] == "ExplainerUnavailable", "all that it takes was found"


async def test_inputs_that_wait_in_the_spill_are_not_called_gone(
    client: httpx.AsyncClient, other: httpx.AsyncClient, gate: UploadGate, tmp_path: Path
) -> None:
    KeyRing(tmp_path / "keys.sqlite").of(["seller-1"])
    with unwritable(tmp_path / "content"):
        path = f"/v1/decisions/{await _trace(client)}"
        said = (await other.get(path)).json()["evidence"]["degraded"]
        assert said == [CONTENT_SPILLED]
        response = await other.get(f"{path}/explanation")
    assert (response.status_code, response.json()["error"]) == (503, "InputsWaiting")
    assert int(response.headers["retry-after"]) >= 1
    await gate.keeper.drain()
    response = await other.get(f"{path}/explanation")
    assert response.json()["error"] == "ExplainerUnavailable", "all that it takes was found"
