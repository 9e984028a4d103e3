"""Engines: the same tower in each of them, int8 graphs made the same twice, and clear words where one cannot run."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from moderation import torch_engine
from moderation.bundle import Bundle
from moderation.derived_graphs import derive, derived_digest, derived_folder
from moderation.engines import onnx_runtime, open_vino
from moderation.engines.engine import QUANTISED, Array, Engine, EngineName, engine_named
from moderation.engines.machine import processor_kind
from moderation.engines.onnx_runtime import OnnxRuntimeEngine, open_reference
from moderation.engines.open_vino import OpenVinoEngine
from moderation.engines.quantise import quantise
from moderation.errors import BundleRejected, PermanentError, SettingsError
from moderation.profiles import PROFILES
from moderation.reading import IMAGE_FOLDER, TEXT_FOLDER
from moderation.settings import Settings
from serving.engines import EngineChoice, opener

ON_CPU: tuple[EngineName, ...] = (
    "onnxruntime-int8",
    "openvino-f32",
    "openvino-bf16",
    "openvino-int8",
    "torch-cuda",
)


@pytest.fixture(scope="module")
def derived(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A copy of the tiny bundle with the int8 graphs of both engines."""
    folder = tmp_path_factory.mktemp("derived") / "bundle"
    bundle = Bundle.open(Path(shutil.copytree(tiny_bundle.folder, folder)))
    for name in QUANTISED:
        derive(bundle, name, quantise)
    return bundle


def _inputs(tower: str, batch: int) -> dict[str, Array]:
    rng = np.random.default_rng(7)
    if tower == IMAGE_FOLDER:
        return {"images_BCHW": rng.normal(size=(batch, 3, 64, 64)).astype(np.float32)}
    ids_BT = rng.integers(4, 700, (batch, 11))
    return {"ids_BT": ids_BT, "mask_BT": np.ones_like(ids_BT)}


def _cosine(one_BD: Array, other_BD: Array) -> float:
    lengths_B = np.linalg.norm(one_BD, axis=1) * np.linalg.norm(other_BD, axis=1)
    return float(((one_BD * other_BD).sum(1) / lengths_B).min())


@pytest.mark.parametrize("name", ["openvino-f32", "onnxruntime-int8"])
def test_an_engine_that_takes_batches_gets_the_threads_that_it_was_set(
    derived: Bundle, name: EngineName, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = list[int]()
    kind = OpenVinoEngine if name.startswith("openvino") else OnnxRuntimeEngine
    monkeypatch.setattr(kind, "__init__", lambda _, path, name, number: given.append(number))
    choice = EngineChoice.of(Settings(engine=name), num_threads=3)
    opener(derived, choice)(derived.folder / TEXT_FOLDER)
    assert given == [3]


def test_the_reference_runs_an_item_on_one_thread_however_many_run_side_by_side(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, really = list[int](), onnx_runtime.open_session

    def open_session(path: Path, num_threads: int = 1) -> object:
        given.append(num_threads)
        return really(path, num_threads)

    monkeypatch.setattr(onnx_runtime, "open_session", open_session)
    choice = EngineChoice.of(Settings(), num_threads=3)
    opener(tiny_bundle, choice)(tiny_bundle.folder / TEXT_FOLDER)
    assert given == [1]


@pytest.mark.parametrize("tower", [IMAGE_FOLDER, TEXT_FOLDER])
@pytest.mark.parametrize("name", ON_CPU)
def test_every_engine_gives_the_towers_embedding(
    derived: Bundle, name: EngineName, tower: str
) -> None:
    inputs = _inputs(tower, batch=5)
    expected_BD = open_reference(derived.folder / tower).run(inputs)["embedding_BD"]
    engine = opener(derived, EngineChoice(name, device="cpu"))(derived.folder / tower)
    found = engine.run(inputs)
    assert (engine.name, list(found)) == (name, ["embedding_BD"])
    assert found["embedding_BD"].dtype == np.float32
    assert found["embedding_BD"].shape == expected_BD.shape
    assert _cosine(found["embedding_BD"], expected_BD) > 0.999


@pytest.mark.parametrize("name", ["openvino-int8", "onnxruntime-int8"])
def test_int8_graphs_hold_int8_and_differ_from_fp32(derived: Bundle, name: EngineName) -> None:
    inputs = _inputs(TEXT_FOLDER, batch=3)
    engine = opener(derived, EngineChoice(name))(derived.folder / TEXT_FOLDER)
    own_BD = open_reference(derived.folder / TEXT_FOLDER).run(inputs)["embedding_BD"]
    assert not np.array_equal(engine.run(inputs)["embedding_BD"], own_BD)
    fp32 = (derived.folder / TEXT_FOLDER / "model.onnx").stat().st_size
    int8 = (derived_folder(derived, name) / "text_tower.onnx").stat().st_size
    assert int8 < fp32


@pytest.mark.parametrize("name", sorted(QUANTISED))
def test_derived_graphs_are_the_same_twice_and_leave_the_bundle_alone(
    bundle_copy: Path, name: EngineName
) -> None:
    bundle = Bundle.open(bundle_copy)
    counts = derive(bundle, name, quantise)
    first = derived_digest(bundle, name)
    assert counts["text_tower"] > 0
    assert derive(bundle, name, quantise) == counts
    assert derived_digest(bundle, name) == first
    assert Bundle.open(bundle_copy).digest == bundle.digest


def test_graphs_that_were_not_derived_are_asked_for(bundle_copy: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    with pytest.raises(BundleRejected, match="tidegate bundle quantise .* --engine openvino-int8"):
        opener(bundle, EngineChoice("openvino-int8"))


def test_a_bundle_on_a_read_only_volume_is_copied_first(bundle_copy: Path) -> None:
    bundle = Bundle.open(bundle_copy)
    (bundle_copy / "engines").write_text("a file is no folder")
    with pytest.raises(PermanentError, match="quantise a copy of the bundle"):
        derive(bundle, "openvino-int8", quantise)


def test_threads_share_an_engine(tiny_bundle: Bundle) -> None:
    engine: Engine = OpenVinoEngine(tiny_bundle.folder / TEXT_FOLDER / "model.onnx", "openvino-f32")
    feeds = [_inputs(TEXT_FOLDER, batch) for batch in (1, 2, 3, 4)]
    expected = [engine.run(feed)["embedding_BD"] for feed in feeds]
    wrong: list[int] = []

    def ask(place: int) -> None:
        for _ in range(20):
            if not np.array_equal(engine.run(feeds[place])["embedding_BD"], expected[place]):
                wrong.append(place)

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(feeds))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_openvino_says_which_graph_it_cannot_run(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08nothing")
    with pytest.raises(BundleRejected, match=r"model.onnx cannot be run by OpenVINO"):
        OpenVinoEngine(path, "openvino-f32")


def test_openvino_is_imported_without_its_telemetry() -> None:
    code = (
        "import socket, sys, threading\n"
        "def refuse(*_): raise SystemExit('a connection was tried')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from moderation.engines import open_vino\n"
        "open_vino.library()\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry.')]\n"
        "assert threading.active_count() == 1\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_openvino_imported_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino_telemetry", sys)
    monkeypatch.setitem(sys.modules, "openvino", sys)
    with pytest.raises(PermanentError, match="import it through this module only"):
        open_vino.library()


def test_a_missing_openvino_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino_telemetry", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(PermanentError, match="install the extra `serve`"):
        open_vino.library()


def test_a_missing_torch_says_what_to_install(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "moderation.torch_engine", None)
    with pytest.raises(SettingsError, match="install the extra `train`"):
        opener(tiny_bundle, EngineChoice("torch-cuda"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="it shows what a machine without a GPU says")
def test_a_missing_gpu_says_what_to_do(tiny_bundle: Bundle) -> None:
    with pytest.raises(PermanentError, match="needs a CUDA device"):
        torch_engine.open_tower(tiny_bundle.folder / TEXT_FOLDER, PROFILES["tiny"])


def test_a_missing_triton_url_names_the_setting(tiny_bundle: Bundle) -> None:
    with pytest.raises(SettingsError, match="TIDEGATE__TRITON_URL"):
        opener(tiny_bundle, EngineChoice("triton"))


def test_an_unknown_engine_names_the_known_ones() -> None:
    assert engine_named("openvino-int8") == "openvino-int8"
    with pytest.raises(SettingsError, match=r"no such engine: 'int4'; known are onnxruntime, "):
        engine_named("int4")


def test_kind_of_processor_is_what_chooses_kernels(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("model name\t: one\nflags\t\t: fpu avx2 amx_int8 avx512_vnni sse\n")
    kind = processor_kind(info)
    assert kind.split()[1:] == ["avx2", "avx512_vnni", "amx_int8"]
    info.write_text("model name\t: other\nflags\t\t: amx_int8 avx512_vnni avx2\n")
    assert processor_kind(info) == kind
    assert processor_kind(tmp_path / "missing") == kind.split()[0]
