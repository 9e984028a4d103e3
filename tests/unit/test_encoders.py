"""Encoders: the same item gives the same bits, alone or in company, and damage is refused."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moderation.encoders import ImageEncoder, TextEncoder
from moderation.errors import BundleRejected
from tests.tiny_bundle import TinyRun

TEXTS = ("", "red bike", "a much longer text about garden chairs " * 40, "велосипед 自転車 🚲")


def _images(num: int) -> list[Image.Image]:
    rng = np.random.default_rng(5)
    sides = rng.integers(20, 200, (num, 2))
    return [
        Image.fromarray(rng.integers(0, 256, (int(h), int(w), 3), dtype=np.uint8)) for h, w in sides
    ]


def test_embedding_is_the_same_when_encoded_alone(tiny: TinyRun) -> None:
    alone_image = ImageEncoder(tiny.parts["image_tower"])
    many_images = ImageEncoder(tiny.parts["image_tower"], num_threads=2)
    images = _images(7)
    together = many_images.encode(images)
    assert together.shape == (7, alone_image.dim)
    for row, image in enumerate(images):
        np.testing.assert_array_equal(alone_image.encode([image])[0], together[row])
    text = TextEncoder(tiny.parts["text_tower"], num_threads=2)
    together = text.encode(TEXTS)
    for row, words in enumerate(TEXTS):
        np.testing.assert_array_equal(text.encode([words])[0], together[row])


def test_text_embedding_is_finite_and_of_length_1(tiny: TinyRun) -> None:
    vectors = TextEncoder(tiny.parts["text_tower"]).encode(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_encoders_answer_nothing_when_nothing_is_asked(tiny: TinyRun) -> None:
    assert ImageEncoder(tiny.parts["image_tower"]).encode([]).shape == (0, 96)
    assert TextEncoder(tiny.parts["text_tower"]).encode([]).shape == (0, 48)


@pytest.mark.parametrize("damaged", ["tower.json", "model.onnx"])
def test_encoder_refuses_a_tower_when_it_is_damaged(
    damaged: str, tiny: TinyRun, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny.parts["image_tower"], tmp_path / "tower"))
    (folder / damaged).write_bytes(b"not what it was")
    with pytest.raises(BundleRejected, match="export it again"):
        ImageEncoder(folder)


def test_encoders_import_no_torch() -> None:
    code = (
        "import sys, moderation.embedding, moderation.encoders\n"
        "heavy = {'torch', 'lightning', 'transformers', 'timm'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
