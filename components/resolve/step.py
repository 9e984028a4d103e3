"""The registry's champion, as the folder that the next step opens."""

from pathlib import Path

from components.home import Home
from components.registry import Registry
from moderation.bundle import Bundle


def run(release: str, home: str, tracking_url: str) -> str:
    """Return the folder of the bundle that a candidate is compared with; empty for a first release.

    Args:
        release: folder of the candidate.
        home: folder that keeps bundles.
        tracking_url: registry; empty means SQLite below `home`.

    Raises:
        PermanentError: if the champion's folder is gone.
        BundleRejected: if it was altered.
    """
    place = Home(Path(home))
    registry = Registry(
        tracking_url or place.tracking_url, bundles=place.bundles, artifacts=place.artifacts
    )
    opponent = registry.opponent_of(Bundle.open(Path(release)).digest)
    return "" if opponent is None else str(registry.open(opponent).folder)
