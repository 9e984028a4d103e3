"""Encoders: exported towers run by an engine; training and serving embed through them.

The reference engine runs an item alone, on one thread, so its embedding depends on nothing but its own bytes: not on
the batch that it came in, not on the number of threads. That costs 0 to 10 % over batches on a CPU. Items of one call
run side by side on `num_threads` threads. Other engines, which are compared with the reference first, run batches:
a GPU or bf16 on a CPU gains by them.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from moderation.engines.engine import REFERENCE, EngineName, EngineOpener
from moderation.engines.onnx_runtime import open_reference
from moderation.reading import ImageReader, Pixels, TextReader, Tokens, tower_facts

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


class _Encoder:
    """What both encoders share: the facts of the tower, its engine, and a pool of threads."""

    def __init__(self, folder: Path, num_threads: int, open_engine: EngineOpener) -> None:
        self.facts: dict[str, Any] = tower_facts(folder)
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


class ImageEncoder(_Encoder):
    """The image tower of a bundle or of a training run."""

    def __init__(
        self, folder: Path, num_threads: int = 1, open_engine: EngineOpener = open_reference
    ) -> None:
        super().__init__(folder, num_threads, open_engine)
        self.reader = ImageReader(self.facts)

    def encode(self, images: Sequence[Image.Image]) -> Embedding:
        """Return one embedding per decoded image, float32[n, D]."""
        return self._encode_all(self.encode_one, images)

    def encode_one(self, image: Image.Image) -> Embedding:
        """Return the embedding of one decoded image, float32[D]; safe to call from several threads."""
        return self._run_one(self.reader.read(image))

    def run(self, prepared: Sequence[Pixels]) -> Embedding:
        """Return one embedding per image as `reader` read it, float32[n, D]."""
        return self._run_all(self._run_one, self._run_batch, prepared)

    def _run_batch(self, prepared: Sequence[Pixels]) -> Embedding:
        images_BCHW = np.stack([self.reader.normalised(pixels_HWC) for pixels_HWC in prepared])
        return self._engine.run({"images_BCHW": images_BCHW})[_OUTPUT]

    def _run_one(self, pixels_HWC: Pixels) -> Embedding:
        found = self._engine.run({"images_BCHW": self.reader.normalised(pixels_HWC)[None]})
        return cast(Embedding, found[_OUTPUT][0])


class TextEncoder(_Encoder):
    """The text tower of a bundle or of a training run, with its tokenizer."""

    def __init__(
        self, folder: Path, num_threads: int = 1, open_engine: EngineOpener = open_reference
    ) -> None:
        super().__init__(folder, num_threads, open_engine)
        self.reader = TextReader(folder, self.facts)

    def encode(self, texts: Sequence[str]) -> Embedding:
        """Return one embedding of length 1 per text, float32[n, D]."""
        return self._encode_all(self.encode_one, texts)

    def encode_one(self, text: str) -> Embedding:
        """Return the embedding of one text, float32[D]; safe to call from several threads."""
        return self._run_one(self.reader.read(text))

    def run(self, prepared: Sequence[Tokens]) -> Embedding:
        """Return one embedding of length 1 per text as `reader` read it, float32[n, D]."""
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
