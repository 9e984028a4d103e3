"""Towers: built by name, exported with the same bytes, and equal to torch where they are served."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from moderation.errors import PermanentError
from moderation.export import TowersInfo, export_towers, write_towers
from moderation.profiles import PROFILES, Profile, TowerSpec
from moderation.towers import build_image_tower, build_text_tower

TINY = PROFILES["tiny"]
# The classes of profile `clip`, with dimensions that a test can afford and random weights.
CLIP_CLASSES = PROFILES["clip"].model_copy(
    update={
        "image_tower": TowerSpec(
            source="random",
            name="vit_base_patch32_clip_224",
            dim=32,
            options={"img_size": 64, "embed_dim": 32, "depth": 3, "num_heads": 2},
        ),
        "text_tower": TowerSpec(
            source="random",
            name="distilbert",
            dim=32,
            options={"dim": 32, "hidden_dim": 64, "n_layers": 3, "n_heads": 2},
        ),
        "image_size": 64,
        "max_tokens": 32,
    }
)


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> TowersInfo:
    return export_towers(TINY, tmp_path_factory.mktemp("towers"))


def test_export_gives_the_same_bytes_when_repeated(exported: TowersInfo, tmp_path: Path) -> None:
    again = export_towers(TINY, tmp_path)
    assert _files(again.folder) == _files(exported.folder)


def test_export_holds_no_path_of_the_machine_it_ran_on(exported: TowersInfo) -> None:
    here = str(Path(torch.__file__).parents[1]).encode()
    for name, content in _files(exported.folder).items():
        assert here not in content, name


def test_export_is_reused_when_it_is_there(exported: TowersInfo) -> None:
    marker = exported.folder / "image_tower" / "model.onnx"
    before = marker.stat().st_mtime_ns
    again = export_towers(TINY, exported.folder.parent)
    assert (again, marker.stat().st_mtime_ns) == (exported, before)


def test_digest_changes_when_a_weight_does(exported: TowersInfo, tmp_path: Path) -> None:
    image, text = build_image_tower(TINY.image_tower), build_text_tower(TINY.text_tower)
    with torch.no_grad():
        next(image.parameters()).view(-1)[0] += 1e-3
    changed = write_towers(TINY, image, text, tmp_path / "towers")
    assert changed.image_digest != exported.image_digest
    assert changed.text_digest == exported.text_digest


@pytest.mark.parametrize("profile", [TINY, CLIP_CLASSES], ids=["tiny", "clip classes"])
def test_onnx_equals_torch_when_batch_and_length_vary(
    profile: Profile, exported: TowersInfo
) -> None:
    image, text = build_image_tower(profile.image_tower), build_text_tower(profile.text_tower)
    info = export_towers(profile, exported.folder.parent)
    generator = torch.Generator().manual_seed(3)
    size = profile.image_size
    for batch, length in ((1, 2), (3, profile.max_tokens)):
        pixels = torch.randn(batch, 3, size, size, generator=generator)
        ids = torch.randint(4, 200, (batch, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[:, length // 2 + 1 :] = 0
        for tower, folder, feed in (
            (image, "image_tower", {"images_BCHW": pixels}),
            (text.tower, "text_tower", {"ids_BT": ids, "mask_BT": mask}),
        ):
            assert _gap(tower, info.folder / folder / "model.onnx", feed) <= 1e-4


def _gap(tower: nn.Module, path: Path, feed: dict[str, torch.Tensor]) -> float:
    with torch.no_grad():
        expected = tower(*feed.values()).numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (served,) = session.run(None, {name: tensor.numpy() for name, tensor in feed.items()})
    return float(np.abs(served - expected).max())


def test_text_tower_ignores_what_is_masked() -> None:
    tower = build_text_tower(TINY.text_tower).tower
    ids = torch.tensor([[2, 10, 11, 3, 0, 0], [2, 10, 11, 3, 99, 7]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]] * 2)
    with torch.no_grad():
        first, second = tower(ids, mask)
        alone = tower(ids[:1, :4], mask[:1, :4])[0]
    assert torch.equal(first, second)
    assert torch.allclose(first, alone, atol=1e-6)
    assert torch.linalg.norm(first).item() == pytest.approx(1, abs=1e-5)


def test_random_tower_is_the_same_when_built_again() -> None:
    torch.manual_seed(1)
    first = build_image_tower(TINY.image_tower).state_dict()
    torch.manual_seed(2)
    second = build_image_tower(TINY.image_tower).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_tower_is_refused_when_its_width_is_not_the_profiles() -> None:
    with pytest.raises(PermanentError, match=r"vectors of 96, its profile says 97"):
        build_image_tower(TINY.image_tower.model_copy(update={"dim": 97}))


def test_hub_tower_says_what_to_do_when_it_is_unreachable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    clip = PROFILES["clip"]
    with pytest.raises(PermanentError, match=r"HF_HOME.*profile `small`"):
        build_image_tower(clip.image_tower)
    with pytest.raises(PermanentError, match=r"HF_HOME.*profile `small`"):
        build_text_tower(clip.text_tower)


def test_package_tower_names_the_package_when_it_is_missing() -> None:
    spec = PROFILES["small"].image_tower.model_copy(update={"package": "no_such_package"})
    with pytest.raises(PermanentError, match=r"no_such_package.*extra `train`"):
        build_image_tower(spec)


def test_blocks_are_those_of_the_architecture() -> None:
    image = build_image_tower(CLIP_CLASSES.image_tower)
    text = build_text_tower(CLIP_CLASSES.text_tower).tower
    assert (len(image.blocks()), len(text.blocks())) == (3, 3)


@pytest.mark.slow
def test_small_towers_know_what_they_were_trained_on() -> None:
    small = PROFILES["small"]
    image, text = build_image_tower(small.image_tower), build_text_tower(small.text_tower)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(text.tokenizer)
    tokenizer.no_padding()
    sentences = ("a pistol for sale", "selling a handgun", "fresh strawberries")
    with torch.no_grad():
        vectors = [
            text.tower(ids := torch.tensor([tokenizer.encode(s).ids]), torch.ones_like(ids))[0]
            for s in sentences
        ]
        pooled = image(torch.zeros(1, 3, 224, 224))
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2]
    assert pooled.shape == (1, 1280)
    assert 0 < pooled.mean() < 6  # ReLU6 features of trained weights; random ones explode or vanish
