"""Engines beside the reference run items in batches, and a batch changes an item's embedding by rounding alone."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moderation.bundle import Bundle
from moderation.encoders import ImageEncoder, TextEncoder
from moderation.engines.engine import Engine, EngineOpener
from moderation.engines.onnx_runtime import open_reference
from moderation.engines.open_vino import OpenVinoEngine
from moderation.reading import IMAGE_FOLDER, TEXT_FOLDER

TEXTS = ["a", "garden chair, blue, hardly used", "x" * 3_000, "", "two words"] * 9
CLOSE = 1e-5


def open_float(folder: Path) -> Engine:
    return OpenVinoEngine(folder / "model.onnx", "openvino-f32")


def _photos() -> list[Image.Image]:
    rng = np.random.default_rng(3)
    sizes = [(40, 60), (200, 100), (64, 64)] * 14
    return [
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        for width, height in sizes
    ]


@pytest.mark.parametrize("opener", [open_reference, open_float])
def test_an_embedding_does_not_depend_on_its_batch(
    tiny_bundle: Bundle, opener: EngineOpener
) -> None:
    texts = TextEncoder(tiny_bundle.folder / TEXT_FOLDER, open_engine=opener)
    images = ImageEncoder(tiny_bundle.folder / IMAGE_FOLDER, open_engine=opener)
    photos = _photos()
    alone_ND = np.stack([texts.encode_one(text) for text in TEXTS])
    together_ND = texts.run([texts.reader.read(text) for text in TEXTS])
    np.testing.assert_allclose(together_ND, alone_ND, atol=CLOSE)
    alone_ND = np.stack([images.encode_one(photo) for photo in photos])
    together_ND = images.run([images.reader.read(photo) for photo in photos])
    np.testing.assert_allclose(together_ND, alone_ND, atol=CLOSE)


def test_the_reference_runs_each_item_alone(tiny_bundle: Bundle) -> None:
    texts = TextEncoder(tiny_bundle.folder / TEXT_FOLDER)
    prepared = [texts.reader.read(text) for text in TEXTS]
    alone_ND = np.stack([texts.encode_one(text) for text in TEXTS])
    np.testing.assert_array_equal(texts.run(prepared), alone_ND)


def test_nothing_gives_nothing(tiny_bundle: Bundle) -> None:
    folder: Path = tiny_bundle.folder / TEXT_FOLDER
    assert TextEncoder(folder, open_engine=open_float).run([]).shape[0] == 0
