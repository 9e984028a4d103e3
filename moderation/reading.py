"""How the towers of a bundle read an image and a text: what comes before an engine."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from tokenizers import Tokenizer

from moderation.errors import BundleRejected
from moderation.image import central_square, normalised

IMAGE_FOLDER: Final = "image_tower"
TEXT_FOLDER: Final = "text_tower"

Pixels = npt.NDArray[np.uint8]
Tokens = npt.NDArray[np.int64]


def tower_facts(folder: Path) -> dict[str, Any]:
    """Return what an exported tower says of itself.

    Raises:
        BundleRejected: if the folder holds none.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / "tower.json").read_text())
    except (OSError, ValueError) as error:
        raise BundleRejected(f"{folder} holds no tower: {error}; export it again") from error
    return facts


class ImageReader:
    """How an image tower reads an image; safe to use from several threads."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self._size: int = facts["image_size"]
        self._mean, self._std = _three(facts["mean"]), _three(facts["std"])

    def read(self, image: Image.Image) -> Pixels:
        """Return what the tower sees of a decoded image, uint8[H, W, C]."""
        return np.asarray(central_square(image, self._size))

    def normalised(self, pixels_HWC: Pixels) -> npt.NDArray[np.float32]:
        """Return what was read as the tower takes it, float32[C, H, W]."""
        return normalised(pixels_HWC, self._mean, self._std)


class TextReader:
    """How a text tower reads a text; safe to use from several threads."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(facts["max_tokens"])
        # A token is at least one character; cutting first bounds the tokenizer's time on hostile texts.
        self._max_chars = facts["max_tokens"] * 64

    def read(self, text: str) -> Tokens:
        """Return the tokens of one text, int64[T]."""
        return np.array(self._tokenizer.encode(text[: self._max_chars]).ids, np.int64)


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue
