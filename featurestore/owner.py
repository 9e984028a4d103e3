"""Whose an online store is: the home that writes it leaves its id there, and no other home writes over it."""

import os
import secrets
from contextlib import suppress
from typing import Final

from featurestore.layout import STREAM, FeaturesNotReady, Place, without_secrets
from featurestore.online import open_rows
from featurestore.wire import Value, entity_key, key_prefix
from moderation.errors import FeatureStoreUnavailable

HOME: Final = "home"
"""The row of `stream_state` that holds the id of the home, in both of its columns."""

_BITS: Final = 62
_BUDGET_S: Final = 1.0


def owner_of(place: Place) -> int:
    """Return the id of a home, a positive number of 62 bits; it is drawn once, and a copy of the folder keeps it."""
    path = place.folder / "home.id"
    with suppress(FileNotFoundError):
        return int(path.read_text())
    drawn = path.with_name(f".home.id.{os.getpid()}")
    drawn.write_text(str(secrets.randbits(_BITS) | 1))
    with suppress(FileExistsError):  # another process was first
        os.link(drawn, path)
    drawn.unlink()
    return int(path.read_text())


def check_owner(place: Place) -> None:
    """Refuse an online store that another home writes; one that cannot be reached is left to who writes it.

    Raises:
        FeaturesNotReady: if another home writes it.
    """
    if not place.redis_url:  # a file in the folder of the home
        return
    rows, key = open_rows(place, _BUDGET_S), entity_key(key_prefix("stream_id"), HOME)
    try:
        found = rows.read({STREAM: [key]}).get((STREAM, key))
    except FeatureStoreUnavailable:
        return
    finally:
        rows.close()
    if found is not None:
        check_id(place, int(Value.FromString(found).int64_val))


def check_id(place: Place, found: int) -> None:
    """Refuse an online store that holds the id of another home.

    Raises:
        FeaturesNotReady: if it does.
    """
    if found != owner_of(place):
        shown = without_secrets(place.redis_url) if place.redis_url else place.online_file
        raise FeaturesNotReady(
            f"another home writes the online store {shown}: give this one a database of its own,"
            " TIDEGATE__FEATURE_ONLINE_URL=redis://host:port/N with another number N"
        )
