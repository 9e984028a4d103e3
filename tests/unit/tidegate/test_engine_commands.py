"""Engines on the command line: graphs, the comparison and its exit code, the Triton repository, a refused start."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moderation import attestation
from moderation.bundle import Bundle
from moderation.errors import InvalidSnapshot, PolicyError, SettingsError
from moderation.snapshot import Snapshot
from tests.parity_world import RELEASE_FILE, contract
from tests.tiny_bundle import TinyRun
from tidegate.app import app
from tidegate.engines import engine_rules, parity_rows

ENGINE = "openvino-int8"
ROOT = Path(__file__).parents[3]


def _call(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["bundle", *words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def _table(tiny: TinyRun) -> Path:
    return tiny.parts["heads"].parent / "snapshot"


def test_graphs_are_derived_and_what_comes_next_is_said(bundle_copy: Path) -> None:
    code, said = _call("quantise", str(bundle_copy), "--engine", ENGINE)
    assert code == 0
    assert "convolutions only, and stays fp32" in said
    assert "tidegate bundle parity" in said
    assert (bundle_copy / "engines" / ENGINE / "text_tower.onnx").is_file()


def test_only_int8_engines_have_graphs_of_their_own(bundle_copy: Path) -> None:
    with pytest.raises(SettingsError, match="int8 are onnxruntime-int8, openvino-int8"):
        _call("quantise", str(bundle_copy), "--engine", "openvino-bf16")
    with pytest.raises(SettingsError, match="is what engines are compared with"):
        _call("parity", str(bundle_copy), "--engine", "onnxruntime")


def test_too_few_rows_of_the_bundles_own_are_refused_and_attested(
    bundle_copy: Path, tiny: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidegate.engines.ContentStore", _store_of(tiny))
    code, said = _call(
        "parity", str(bundle_copy), "--engine", "openvino-bf16", "--table", str(_table(tiny))
    )
    assert code == 1
    assert "refused" in said
    (kept,) = attestation.read(Bundle.open(bundle_copy))
    assert (kept.kind, kept.is_passing) == ("parity", False)
    assert "400 needed" in kept.verdicts[0].reason


def test_rows_are_those_that_no_member_was_fitted_on(tiny: TinyRun) -> None:
    snapshot, rules = Snapshot.open(_table(tiny)), engine_rules(contract()).parity
    read = _store_of(tiny)(Path()).get
    rows = parity_rows(snapshot, tiny.bundle, read, rules, 1)
    fitted = int(
        (snapshot.column("role") == "train").sum() + (snapshot.column("role") == "tune").sum()
    )
    assert len(rows.items) == snapshot.num_rows - fitted
    fewer = parity_rows(snapshot, tiny.bundle, read, rules.model_copy(update={"max_rows": 20}), 1)
    assert len(fewer.items) == len(fewer.truth_NP) == 20


def test_rows_whose_images_were_erased_are_left_out(tiny: TinyRun, tmp_path: Path) -> None:
    from ledger.store import ContentStore

    snapshot, rules = Snapshot.open(_table(tiny)), engine_rules(contract()).parity
    rows = parity_rows(snapshot, tiny.bundle, ContentStore(tmp_path / "c").get, rules, 1)
    assert rows.items
    assert not [item for item in rows.items if item.images]


def test_rows_of_another_snapshot_are_refused(tiny: TinyRun, tmp_path: Path) -> None:
    from tests.toy import toy_world

    other = toy_world(40, seed=3).snapshot(tmp_path / "other")
    rules = engine_rules(contract()).parity
    with pytest.raises(InvalidSnapshot, match="is not the snapshot that bundle"):
        parity_rows(other, tiny.bundle, lambda _: b"", rules, 1)


def test_a_contract_without_engines_lets_none_be_compared() -> None:
    serving = contract().serving.model_copy(update={"engines": None})
    with pytest.raises(PolicyError, match="no section serving.engines"):
        engine_rules(contract().model_copy(update={"serving": serving}))


def test_export_triton_writes_both_towers(bundle_copy: Path, tmp_path: Path) -> None:
    out = tmp_path / "models"
    code, said = _call("export-triton", str(bundle_copy), "--out", str(out))
    assert code == 0
    assert len(list(out.glob("*/config.pbtxt"))) == 2
    assert "TIDEGATE__TRITON_URL" in said
    with pytest.raises(SettingsError, match="known are KIND_AUTO, KIND_CPU, KIND_GPU"):
        _call("export-triton", str(bundle_copy), "--out", str(out), "--kind", "GPU")


def test_a_predictor_does_not_start_with_an_engine_that_was_not_compared(
    tiny: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE__ENGINE", "openvino-bf16")
    monkeypatch.setenv("TIDEGATE__RELEASE_FILE", str(RELEASE_FILE))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "serving.predictor",
            "--unattested",
            "--bundle",
            str(tiny.bundle.folder),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert "openvino-bf16 may not answer" in done.stdout + done.stderr
    assert "tidegate bundle parity" in done.stdout + done.stderr


def _store_of(tiny: TinyRun) -> type:
    """Return a content store that holds the toy images of the tiny bundle's snapshot."""
    from tests.tiny_bundle import SEED
    from tests.toy import toy_world

    blobs = toy_world(240, SEED).blobs

    class Store:
        def __init__(self, folder: Path) -> None:
            self.get = blobs.__getitem__

    return Store
