"""An upload of an erased seller that is sent again: refused, and nothing of it is kept."""

from pathlib import Path

import httpx

from ledger.keys import KeyRing
from ledger.ledger import SqliteLedger
from serving.gateway.gate import UploadGate
from tests.unit.serving.fakes import an_upload
from tidegate.erasing import belonging


async def test_gateway_refuses_an_upload_that_was_erased(
    client: httpx.AsyncClient,
    gate: UploadGate,
    tmp_path: Path,
) -> None:
    first = await client.post("/v1/decisions", json=an_upload(submission_id="mine-1"))
    assert first.status_code == 200
    kept = [path.read_bytes() for path in tmp_path.glob("ledger.sqlite*")]
    assert not any(b"seller-1" in data or b"Blue bicycle" in data for data in kept)
    assert isinstance(gate.ledger, SqliteLedger)
    gate.ledger.erase("seller-1", belonging, gate.clock.now())
    num_files = sum(path.is_file() for path in (tmp_path / "content").rglob("*"))
    again = await client.post("/v1/decisions", json=an_upload(submission_id="mine-1"))
    assert again.status_code == 409
    assert "erased; send a new id" in again.json()["message"]
    assert KeyRing(tmp_path / "keys.sqlite").find("seller-1") is None
    assert sum(path.is_file() for path in (tmp_path / "content").rglob("*")) == num_files
    assert gate.ledger.get_decision(first.json()["trace_id"]) is None
    fresh = await client.post("/v1/decisions", json=an_upload(submission_id="mine-2"))
    assert fresh.status_code == 200, "who comes back is somebody new"
