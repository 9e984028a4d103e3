"""The towers as a Triton repository, and the engine that asks a server of the same protocol."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from moderation.bundle import Bundle
from moderation.errors import GateRejected, ModelNotReady, PermanentError
from moderation.reading import IMAGE_FOLDER, TEXT_FOLDER
from moderation.scoring import ScoringItem
from moderation.serving_rules import TritonRules
from serving.engines import EngineChoice, scorer_with, trusted_scorer
from serving.triton import TritonEngine, model_name
from serving.triton_repository import export_repository
from tests.parity_world import RELEASE_FILE, contract, toy_parity_rows
from tests.toy import toy_image
from tests.triton_stand_in import NAME, model_config, triton_stand_in
from tidegate.engines import attest_engine

RULES = TritonRules(max_batch=16, preferred_batches=(4, 16), max_queue_delay_us=1_500, instances=2)
IMAGE = toy_image(np.random.default_rng(3), (200, 30, 30))


@pytest.fixture(scope="module")
def repository(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton") / "models"
    export_repository(tiny_bundle, folder, RULES, kind="KIND_GPU")
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[tuple[str, list[tuple[int, ...]]]]:
    with triton_stand_in(repository) as running:
        yield running


def _choice(url: str) -> EngineChoice:
    return EngineChoice("triton", triton_url=url, timeout_s=5.0)


def test_repository_is_what_triton_reads(repository: Path, tiny_bundle: Bundle) -> None:
    folders = sorted(repository.iterdir())
    assert [folder.name.partition("_tower_")[0] for folder in folders] == ["image", "text"]
    image, text = (model_config(folder) for folder in folders)
    for config, folder in ((image, folders[0]), (text, folders[1])):
        assert config.name == folder.name
        assert config.platform == "onnxruntime_onnx"
        assert config.max_batch_size == 16
        assert list(config.dynamic_batching.preferred_batch_size) == [4, 16]
        assert config.dynamic_batching.max_queue_delay_microseconds == 1_500
        assert (config.instance_group[0].count, config.instance_group[0].kind) == (2, 1)  # GPU
        assert config.parameters["tidegate_bundle"].string_value == tiny_bundle.digest
        source = tiny_bundle.folder / folder.name.rpartition("_")[0] / "model.onnx"
        assert (folder / "1" / "model.onnx").read_bytes() == source.read_bytes()
    assert [list(one.dims) for one in image.input] == [[3, 64, 64]]
    assert {one.name: list(one.dims) for one in text.input} == {"ids_BT": [-1], "mask_BT": [-1]}
    assert [list(one.dims) for one in (*image.output, *text.output)] == [[96], [48]]


def test_a_model_that_is_there_is_kept(repository: Path, tiny_bundle: Bundle) -> None:
    before = {path: path.stat().st_mtime_ns for path in repository.rglob("*")}
    names = export_repository(tiny_bundle, repository, RULES, kind="KIND_GPU")
    assert names == sorted(path.name for path in repository.iterdir())
    assert {path: path.stat().st_mtime_ns for path in repository.rglob("*")} == before


def test_a_graph_that_was_damaged_or_lost_is_put_back(tiny_bundle: Bundle, tmp_path: Path) -> None:
    graphs = [
        tmp_path / name / "1" / "model.onnx"
        for name in export_repository(tiny_bundle, tmp_path, RULES)
    ]
    whole = {path: path.read_bytes() for path in graphs}
    emptied, gone = graphs

    def altered(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    for damage in (
        lambda: emptied.write_bytes(b""),
        lambda: gone.unlink(),
        lambda: altered(emptied),
        lambda: shutil.rmtree(gone.parent),
        lambda: (gone.parents[1] / "config.pbtxt").write_bytes(b"\xff"),
    ):
        damage()
        export_repository(tiny_bundle, tmp_path, RULES)
        assert {path: path.read_bytes() for path in graphs} == whole
        assert [sorted(one.name for one in path.parent.iterdir()) for path in graphs] == [
            ["model.onnx"]
        ] * 2
    assert model_config(gone.parents[1]).max_batch_size == RULES.max_batch
    assert emptied.stat().st_mode & 0o444 == 0o444  # Triton runs as another user


def test_batching_that_changed_is_written_anew(tiny_bundle: Bundle, tmp_path: Path) -> None:
    export_repository(tiny_bundle, tmp_path, RULES)
    graphs = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.onnx")}
    export_repository(tiny_bundle, tmp_path, RULES.model_copy(update={"max_queue_delay_us": 7}))
    for folder in tmp_path.iterdir():
        config = model_config(folder)
        assert config.dynamic_batching.max_queue_delay_microseconds == 7
        assert config.name == folder.name
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.onnx")} == graphs


def test_a_folder_that_cannot_be_written_is_named(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PermanentError, match="file: cannot be written"):
        export_repository(tiny_bundle, tmp_path / "file", RULES)


def test_scores_are_those_of_the_reference(
    tiny_bundle: Bundle, server: tuple[str, list[tuple[int, ...]]]
) -> None:
    items = [
        ScoringItem(title="pistol barrel", images=[IMAGE, IMAGE]),
        ScoringItem(title="a garden chair, old and blue", description="nice " * 40),
    ]
    url, shapes = server
    found = scorer_with(tiny_bundle, _choice(url)).score(items)
    expected = scorer_with(tiny_bundle, EngineChoice()).score(items)
    np.testing.assert_allclose(found.probability_NP, expected.probability_NP, atol=1e-5)
    texts = [shape for shape in shapes if len(shape) == 2]
    assert texts
    assert {tokens % 16 for _, tokens in texts} == {0}


def test_triton_answers_after_a_comparison_and_not_before(
    bundle_copy: Path, server: tuple[str, list[tuple[int, ...]]]
) -> None:
    bundle, choice = Bundle.open(bundle_copy), _choice(server[0])
    with pytest.raises(GateRejected, match="never compared"):
        trusted_scorer(bundle, choice, RELEASE_FILE)
    said = attest_engine(bundle, choice, toy_parity_rows(), contract(), seed=3)
    assert said.is_passing
    assert said.engine is not None
    assert said.engine.library == f"{NAME} 1"
    assert trusted_scorer(bundle, choice, RELEASE_FILE).engine == "triton"


def test_a_server_that_is_not_there_may_come_up_later(tiny_bundle: Bundle) -> None:
    with pytest.raises(ModelNotReady, match="start it, or wait until it has loaded"):
        TritonEngine("grpc://127.0.0.1:1", tiny_bundle.folder / TEXT_FOLDER, timeout_s=0.5)


def test_a_server_that_ends_is_temporary(tiny_bundle: Bundle, repository: Path) -> None:
    with triton_stand_in(repository) as (url, _):
        engine = TritonEngine(url, tiny_bundle.folder / IMAGE_FOLDER, timeout_s=2.0)
    with pytest.raises(ModelNotReady):
        engine.run({"images_BCHW": np.zeros((1, 3, 64, 64), np.float32)})


def test_a_server_without_this_tower_says_what_to_export(
    bundle_copy: Path, server: tuple[str, list[tuple[int, ...]]]
) -> None:
    tower = bundle_copy / TEXT_FOLDER / "tower.json"
    tower.write_text(tower.read_text().replace('"digest": "', '"digest": "0123'))
    with pytest.raises(PermanentError, match="unknown model text_tower_0123.*export-triton"):
        TritonEngine(server[0], bundle_copy / TEXT_FOLDER, timeout_s=2.0)


def test_a_batch_above_the_maximum_is_refused_by_the_server(
    tiny_bundle: Bundle, server: tuple[str, list[tuple[int, ...]]]
) -> None:
    engine = TritonEngine(server[0], tiny_bundle.folder / IMAGE_FOLDER, timeout_s=2.0)
    with pytest.raises(PermanentError, match="batch size above the maximum"):
        engine.run({"images_BCHW": np.zeros((17, 3, 64, 64), np.float32)})


def test_two_bundles_with_one_tower_share_its_model(tiny_bundle: Bundle, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_bundle.folder / TEXT_FOLDER, tmp_path / TEXT_FOLDER))
    assert model_name(other) == model_name(tiny_bundle.folder / TEXT_FOLDER)


def test_the_serving_path_loads_neither_torch_nor_onnx(tiny_bundle: Bundle) -> None:
    code = (
        "import sys; from pathlib import Path; from moderation.bundle import Bundle\n"
        "from serving.engines import EngineChoice, trusted_scorer\n"
        f"bundle = Bundle.open(Path({str(tiny_bundle.folder)!r}))\n"
        "trusted_scorer(bundle, EngineChoice(), Path('missing'))\n"
        "print([name for name in ('torch', 'onnx', 'openvino', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
