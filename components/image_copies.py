"""The search for altered photos in a home: always through the tower that its limits were measured with."""

from components.embed.step import export
from components.home import Home
from ledger.store import ContentStore
from moderation.embedding_cache import EmbeddingCache
from moderation.encoders import ImageEncoder
from moderation.image_copies import ImageCopies
from moderation.profiles import profile_named
from moderation.reading import IMAGE_FOLDER
from moderation.settings import settings

_PROFILE = "small"


def image_copies(home: Home) -> ImageCopies:
    """Return the search; its embeddings are those that training with the small profile reads from the cache."""
    towers = export(profile_named(_PROFILE), home.towers)
    return ImageCopies(
        ImageEncoder(towers / IMAGE_FOLDER, settings().num_threads),
        EmbeddingCache(home.embeddings),
        ContentStore(home.content).get,
    )
