"""From a listing to what the models of a bundle read: decoded, cut into tokens, normalised. Needs no engine."""

from pathlib import Path

from PIL import Image

from moderation.errors import InvalidListing
from moderation.image import decode
from moderation.reading import (
    IMAGE_FOLDER,
    TEXT_FOLDER,
    ImageReader,
    Pixels,
    TextReader,
    tower_facts,
)
from moderation.scores import PreparedItem, ScoringItem
from moderation.telemetry import span
from moderation.text import model_text, ngram_texts


class Preparer:
    """Prepares listings for the models of one bundle; safe to use from several threads."""

    def __init__(self, images: ImageReader, texts: TextReader) -> None:
        self._images, self._texts = images, texts

    @classmethod
    def of_bundle(cls, folder: Path) -> "Preparer":
        """Return the preparer of the bundle in `folder`, which somebody else has verified.

        Raises:
            BundleRejected: if it holds no towers.
        """
        texts = folder / TEXT_FOLDER
        return cls(
            ImageReader(tower_facts(folder / IMAGE_FOLDER)), TextReader(texts, tower_facts(texts))
        )

    def prepare(self, item: ScoringItem) -> PreparedItem:
        """Return a listing ready for a batch.

        Args:
            item: within the limits that `check_item` checks.
        """
        images = tuple(self._read_image(image) for image in item.images)
        text = model_text(item.title, item.description).strip()
        return PreparedItem(
            images,
            self._texts.read(text) if text else None,
            ngram_texts(item.title, item.description),
            item.behaviour,
            item.behaviour_status,
        )

    def _read_image(self, image: bytes | Image.Image) -> Pixels | None:
        """Return what the tower sees of an image; None where the bytes are no image that may be decoded."""
        try:
            with span("decode"):
                decoded = decode(image) if isinstance(image, bytes) else image
        except InvalidListing:
            return None
        return self._images.read(decoded)
