"""An erasure forgets what was embedded of attacked listings: nothing tells whose they were made from."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from components.home import Home
from components.prove.attacked import Chosen, attacked_listings
from components.prove.frozen import freeze
from featurestore.layout import Place
from ledger.events import EventKind, to_submission
from ledger.ledger import SqliteLedger
from ledger.store import ContentStore
from moderation.clock import SystemClock
from moderation.embedding_cache import EmbeddingCache, made_key
from moderation.embedding_plan import text_key
from tests.erasable_home import GONE, TOWERS, embedded, fill
from tidegate.erasing import Eraser, Receipt


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    fill(home)
    return home


def _erase(home: Home) -> Receipt:
    place = Place((home.folder / "features").absolute())
    (receipt,) = Eraser(home, place, SystemClock(), patience_s=20).erase(GONE)
    return receipt


def _attack(home: Home) -> set[bytes]:
    """Embed every attacked form of all uploads, and return the keys that are not of an upload itself."""
    records = list[dict[str, object]]()
    for stored in SqliteLedger(home.ledger).read((EventKind.SUBMISSION,)):
        one = to_submission(stored.event)
        records.append(
            {
                "submission_id": one.submission_id,
                "title": one.listing.title,
                "description": one.listing.description,
                "category": one.listing.category,
                "image_digests": list(one.image_digests),
                "behaviour": None,
                "truth": [0],
                "adjudicated": [1],
                "attributes": "{}",
            }
        )
    read = ContentStore(home.content).get
    golden = freeze("golden", records, ["weapons"], ["weapons"], read)
    rows = np.arange(len(records))
    listings = attacked_listings(golden, Chosen(rows, rows[:0]), ["pistol"])
    items = [item for attacked in listings.values() for _, item in attacked]
    images = {image.key for item in items for image in item.images}
    texts = {made_key(text_key(i.title, i.description)) for i in items if i.is_text_made}
    made = texts | (images - {image.key for item in golden.items for image in item.images})
    with closing(EmbeddingCache(home.embeddings)) as cache:
        for tower in TOWERS:
            cache.put(tower, [(key, 0, np.ones(4, np.float32)) for key in made])
    return made


def _kept(home: Home, keys: set[bytes]) -> int:
    with closing(EmbeddingCache(home.embeddings)) as cache:
        return sum(len(cache.get_many(tower, keys)) for tower in TOWERS)


def test_erasure_forgets_embeddings_of_attacked_listings(home: Home) -> None:
    made = _attack(home)
    assert len(made) > 20
    assert _kept(home, made) == len(TOWERS) * len(made)
    receipt = _erase(home)
    assert _kept(home, made) == 0
    assert receipt.removed["embeddings_of_attacked_listings"] == len(TOWERS) * len(made)
    assert receipt.removed["embeddings"] == 16
    assert embedded(home, 1) == 8, "what another seller submitted stays"


def test_cache_that_tells_no_copy_apart_is_emptied(home: Home) -> None:
    _attack(home)
    with closing(sqlite3.connect(home.embeddings)) as connection:
        connection.execute("PRAGMA user_version=0")
    receipt = _erase(home)
    assert embedded(home, 1) == 0
    assert receipt.removed["embeddings_of_attacked_listings"] > 8
    fresh = made_key(b"k" * 32), b"k" * 32
    with closing(EmbeddingCache(home.embeddings)) as cache:
        cache.put(TOWERS[0], [(key, 0, np.ones(4, np.float32)) for key in fresh])
        assert cache.forget_made() == 1, "it is told apart from now on"
        assert cache.get(TOWERS[0], fresh[1], 0) is not None


def test_erasure_without_a_cache_makes_none(home: Home) -> None:
    home.embeddings.unlink()
    receipt = _erase(home)
    assert receipt.removed["embeddings_of_attacked_listings"] == 0
    assert not home.embeddings.exists()
