"""The behaviour behind past uploads, out of a home's feature store."""

import hashlib
from functools import partial

from components.home import Home
from components.ingest.rows import BehaviourAt
from featurestore.history import behaviour_at, pruned_until
from featurestore.layout import Place
from featurestore.writer import catch_up, letters_of
from ledger.ledger import Ledger
from moderation.clock import Clock, SystemClock
from moderation.settings import settings


def place_of(home: Home) -> Place:
    """Return where the features of a home are."""
    return Place.of(settings().model_copy(update={"home": home.folder}))


def known_behaviour(home: Home, ledger: Ledger, clock: Clock | None = None) -> BehaviourAt:
    """Return what gives the behaviour just before uploads as it was known then; the store is brought up to date first.

    Raises:
        FeatureStoreUnavailable: if that cannot be done now.
    """
    place = place_of(home)
    catch_up(place, ledger, clock or SystemClock())
    return partial(behaviour_at, place.folder)


def history_digest(home: Home) -> str:
    """Return a digest of what the history does not have from the ledger; empty where that is all it has.

    Refused events that were counted after all, and the instant up to which rows were taken away by their age.
    """
    place = place_of(home)
    if not place.stream_file.is_file():
        return ""
    said = [f"{one.sequence} {one.replayed_at}" for one in letters_of(place).replayed()]
    if gone := pruned_until(place.folder):
        said.append(gone.isoformat())
    return hashlib.sha256("\n".join(said).encode()).hexdigest() if said else ""
