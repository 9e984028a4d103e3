"""Heads: the worst image decides, absent modalities are not read, and ONNX says what torch says."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from moderation.errors import BundleRejected
from moderation.fusion import ByteDropout
from moderation.network import ListingHeads, export_heads, load_heads
from moderation.profiles import HeadsConfig

FUSIONS = ("concat", "gated", "cross_attention")
IMAGE_DIM, TEXT_DIM, NUM_POLICIES = 12, 8, 3


def _heads(fusion: str = "concat", head: str = "mlp") -> ListingHeads:
    config = HeadsConfig.model_validate({"fusion": fusion, "head": head, "hidden": 8})
    with torch.random.fork_rng():
        torch.manual_seed(4)
        heads = ListingHeads(IMAGE_DIM, TEXT_DIM, NUM_POLICIES, config)
        for parameter in heads.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        heads.shift_3P.normal_()
    return heads.eval()


def _inputs(batch: int, images: int, seed: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "images_BKD": torch.randn(batch, images, IMAGE_DIM, generator=generator),
        "image_mask_BK": torch.rand(batch, images, generator=generator) > 0.4,
        "text_BD": torch.randn(batch, TEXT_DIM, generator=generator),
        "has_text_B": torch.rand(batch, generator=generator) > 0.4,
    }


@pytest.mark.parametrize("fusion", FUSIONS)
def test_logits_stay_when_masked_inputs_change(fusion: str) -> None:
    heads, inputs = _heads(fusion), _inputs(6, 4)
    other = dict(inputs)
    noise = _inputs(6, 4, seed=9)
    other["images_BKD"] = torch.where(
        inputs["image_mask_BK"][..., None], inputs["images_BKD"], noise["images_BKD"]
    )
    other["text_BD"] = torch.where(
        inputs["has_text_B"][:, None], inputs["text_BD"], noise["text_BD"]
    )
    with torch.no_grad():
        for name, first, second in zip(
            heads(**inputs)._fields, heads(**inputs), heads(**other), strict=True
        ):
            assert torch.allclose(first.float(), second.float(), atol=1e-6), name


@pytest.mark.parametrize("fusion", FUSIONS)
def test_logits_stay_when_images_are_reordered(fusion: str) -> None:
    heads, inputs = _heads(fusion), _inputs(6, 4)
    order = torch.tensor([2, 0, 3, 1])
    moved = inputs | {name: inputs[name][:, order] for name in ("images_BKD", "image_mask_BK")}
    with torch.no_grad():
        first, second = heads(**inputs), heads(**moved)
    assert torch.allclose(first.image_BP, second.image_BP, atol=1e-6)
    assert torch.allclose(first.fusion_BP, second.fusion_BP, atol=1e-6)
    has_image_B = inputs["image_mask_BK"].any(1)
    assert torch.equal(order[second.worst_image_BP][has_image_B], first.worst_image_BP[has_image_B])


def test_image_head_answers_with_the_worst_image() -> None:
    heads, inputs = _heads(), _inputs(1, 4)
    inputs["image_mask_BK"][:] = True
    with torch.no_grad():
        together = heads(**inputs)
        alone = [
            heads(
                inputs["images_BKD"][:, k : k + 1],
                torch.ones(1, 1, dtype=torch.bool),
                inputs["text_BD"],
                inputs["has_text_B"],
            ).image_BP[0]
            for k in range(4)
        ]
    worst = torch.stack(alone).max(0)
    assert torch.allclose(together.image_BP[0], worst.values, atol=1e-6)
    assert torch.equal(together.worst_image_BP[0], worst.indices)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_packed_images_give_what_slots_give(fusion: str) -> None:
    heads, inputs = _heads(fusion), _inputs(5, 3)
    slots = inputs["image_mask_BK"]
    shown = (slots & torch.tensor([True, True, False, True, True])[:, None], inputs["has_text_B"])
    with torch.no_grad():
        dense, text = heads.prepare(inputs["images_BKD"], inputs["text_BD"])
        packed = dense[slots]
        for images in (dense, packed):
            image_BP, _ = heads.image_logits(images, slots)
            fusion_BP = heads.fusion_logits(images, slots, text, shown)
            if images is dense:
                expected = (image_BP, fusion_BP)
    has_image_B = slots.any(1)
    assert torch.allclose(image_BP[has_image_B], expected[0][has_image_B], atol=1e-6)
    assert torch.allclose(fusion_BP, expected[1], atol=1e-6)


def test_heads_share_no_parameter() -> None:
    heads = _heads()
    inputs = _inputs(6, 3)
    logits = heads(**inputs)
    reached = []
    for output in (logits.image_BP, logits.text_BP, logits.fusion_BP):
        gradients = torch.autograd.grad(
            output.sum(), list(heads.parameters()), retain_graph=True, allow_unused=True
        )
        reached.append({i for i, gradient in enumerate(gradients) if gradient is not None})
    assert all(reached)
    assert not (reached[0] & reached[1] | reached[0] & reached[2] | reached[1] & reached[2])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_onnx_equals_torch_when_shapes_vary(fusion: str, tmp_path: Path) -> None:
    heads = _heads(fusion, "linear" if fusion == "gated" else "mlp")
    export_heads(heads, HeadsConfig.model_validate({"fusion": fusion}), tmp_path)
    session = onnxruntime.InferenceSession(
        str(tmp_path / "heads.onnx"), providers=["CPUExecutionProvider"]
    )
    for batch, images in ((1, 1), (1, 8), (5, 3)):
        inputs = _inputs(batch, images)
        with torch.no_grad():
            expected = heads(**inputs)
        served = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        for name, first, second in zip(expected._fields, expected, served, strict=True):
            np.testing.assert_allclose(first.numpy(), second, atol=1e-5, err_msg=name)


def test_heads_come_back_when_they_were_exported(tmp_path: Path) -> None:
    config = HeadsConfig(head="mlp", hidden=8)
    heads, inputs = _heads(), _inputs(4, 2)
    export_heads(heads, config, tmp_path / "first")
    back = load_heads(tmp_path / "first")
    with torch.no_grad():
        assert torch.equal(back(**inputs).fusion_BP, heads(**inputs).fusion_BP)
    export_heads(back, config, tmp_path / "second")
    for name in ("heads.onnx", "heads.safetensors", "heads.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_heads_are_refused_when_a_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BundleRejected, match="no readable heads"):
        load_heads(tmp_path)


def test_dropout_keeps_its_share_and_its_mean() -> None:
    dropout = ByteDropout(0.4).train()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        kept = dropout(torch.ones(1001, 77))
    assert (kept == 0).float().mean().item() == pytest.approx(0.4, abs=0.01)
    assert kept.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(dropout.eval()(torch.ones(3)), torch.ones(3))
