"""Encoders: exported towers run by an engine; training and serving embed through them.

The reference engine runs an item alone, on one thread, so its embedding depends on nothing but its own bytes: not on
the batch that it came in, not on the number of threads. That costs 0 to 10 % over batches on a CPU. Items of one call
run side by side on `num_threads` threads. Other engines, which are compared with the reference first, run batches:
a GPU or bf16 on a CPU gains by them.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numpy as np
import numpy.typing as npt
from PIL import Image
from tokenizers import Tokenizer

from moderation.engines.engine import REFERENCE, EngineName, EngineOpener
from moderation.engines.onnx_runtime import open_reference
from moderation.errors import BundleRejected
from moderation.image import to_tensor

IMAGE_FOLDER: Final = "image_tower"
TEXT_FOLDER: Final = "text_tower"
_OUTPUT: Final = "embedding_BD"

_ALONE: Final[frozenset[EngineName]] = frozenset({REFERENCE, "triton"})
"""Engines that get items one by one; a Triton server forms batches itself, of what all its callers send."""

_MAX_BATCH: Final = 32
"""Items that one run of an engine takes: more gain nothing and hold memory."""

ENCODING_VERSION: Final = 1
"""Raised when the way to an embedding changes without the tower: cached embeddings of another version are stale."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Embedding = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int64]


class _Encoder:
    """What both encoders share: the facts of the tower, its engine, and a pool of threads."""

    def __init__(self, folder: Path, num_threads: int, open_engine: EngineOpener) -> None:
        try:
            self.facts: dict[str, Any] = json.loads((folder / "tower.json").read_text())
        except (OSError, ValueError) as error:
            raise BundleRejected(f"{folder} holds no tower: {error}; export it again") from error
        self.digest: str = self.facts["digest"]
        self.dim: int = self.facts["dim"]
        self._engine = open_engine(folder)
        self._pool = ThreadPoolExecutor(num_threads) if num_threads > 1 else None

    @property
    def engine(self) -> EngineName:
        """Which engine runs the tower."""
        return self._engine.name

    @property
    def cache_key(self) -> str:
        """What embeddings of this tower are kept under: the same tower and the same way to an embedding."""
        other = "" if self._engine.name == REFERENCE else f":{self._engine.name}"
        return f"{self.digest}:{ENCODING_VERSION}{other}"

    def each(self, task: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Yield `task(item)` in order, run side by side on the encoder's threads."""
        if self._pool is None or len(items) < 2:
            return map(task, items)
        return self._pool.map(task, items)

    def _encode_all(self, encode: Callable[[Item], Embedding], items: Sequence[Item]) -> Embedding:
        embeddings_ND = np.empty((len(items), self.dim), np.float32)
        for row, embedding_D in enumerate(self.each(encode, items)):
            embeddings_ND[row] = embedding_D
        return embeddings_ND

    def _run_all(
        self,
        run_one: Callable[[Item], Embedding],
        run_batch: Callable[[Sequence[Item]], Embedding],
        prepared: Sequence[Item],
    ) -> Embedding:
        """Return the embeddings of prepared items: in batches, where the engine gains by them."""
        if self._engine.name in _ALONE or not prepared:
            return self._encode_all(run_one, prepared)
        starts = range(0, len(prepared), _MAX_BATCH)
        return np.concatenate([run_batch(prepared[at : at + _MAX_BATCH]) for at in starts])


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


class ImageEncoder(_Encoder):
    """The image tower of a bundle or of a training run."""

    def __init__(
        self, folder: Path, num_threads: int = 1, open_engine: EngineOpener = open_reference
    ) -> None:
        super().__init__(folder, num_threads, open_engine)
        self._size: int = self.facts["image_size"]
        self._mean = _three(self.facts["mean"])
        self._std = _three(self.facts["std"])

    def encode(self, images: Sequence[Image.Image]) -> Embedding:
        """Return one embedding per decoded image, float32[n, D]."""
        return self._encode_all(self.encode_one, images)

    def encode_one(self, image: Image.Image) -> Embedding:
        """Return the embedding of one decoded image, float32[D]; safe to call from several threads."""
        return self._run_one(self.prepare(image))

    def prepare(self, image: Image.Image) -> Embedding:
        """Return a decoded image as the tower reads it, float32[C, H, W]; safe to call from several threads."""
        return to_tensor(image, self._size, self._mean, self._std)

    def run(self, prepared: Sequence[Embedding]) -> Embedding:
        """Return one embedding per prepared image, float32[n, D]."""
        return self._run_all(self._run_one, self._run_batch, prepared)

    def _run_batch(self, prepared: Sequence[Embedding]) -> Embedding:
        return self._engine.run({"images_BCHW": np.stack(prepared)})[_OUTPUT]

    def _run_one(self, pixels_CHW: Embedding) -> Embedding:
        found = self._engine.run({"images_BCHW": pixels_CHW[None]})
        return cast(Embedding, found[_OUTPUT][0])


class TextEncoder(_Encoder):
    """The text tower of a bundle or of a training run, with its tokenizer."""

    def __init__(
        self, folder: Path, num_threads: int = 1, open_engine: EngineOpener = open_reference
    ) -> None:
        super().__init__(folder, num_threads, open_engine)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.facts["max_tokens"])
        # A token is at least one character; cutting first bounds the tokenizer's time on hostile texts.
        self._max_chars = self.facts["max_tokens"] * 64

    def encode(self, texts: Sequence[str]) -> Embedding:
        """Return one embedding of length 1 per text, float32[n, D]."""
        return self._encode_all(self.encode_one, texts)

    def encode_one(self, text: str) -> Embedding:
        """Return the embedding of one text, float32[D]; safe to call from several threads."""
        return self._run_one(self.prepare(text))

    def prepare(self, text: str) -> Tokens:
        """Return the tokens of one text as the tower reads them, int64[T]; safe to call from several threads."""
        return np.array(self._tokenizer.encode(text[: self._max_chars]).ids, np.int64)

    def run(self, prepared: Sequence[Tokens]) -> Embedding:
        """Return one embedding of length 1 per prepared text, float32[n, D]."""
        return self._run_all(self._run_one, self._run_batch, prepared)

    def _run_batch(self, prepared: Sequence[Tokens]) -> Embedding:
        length = max(map(len, prepared))
        ids_BT = np.zeros((len(prepared), length), np.int64)
        mask_BT = np.zeros_like(ids_BT)
        for row, ids_T in enumerate(prepared):
            ids_BT[row, : len(ids_T)], mask_BT[row, : len(ids_T)] = ids_T, 1
        return self._engine.run({"ids_BT": ids_BT, "mask_BT": mask_BT})[_OUTPUT]

    def _run_one(self, ids_T: Tokens) -> Embedding:
        feed = {"ids_BT": ids_T[None], "mask_BT": np.ones((1, len(ids_T)), np.int64)}
        return cast(Embedding, self._engine.run(feed)[_OUTPUT][0])
