"""The embedding step takes frozen towers, or tunes them on the snapshot where the profile asks for it."""

from pathlib import Path

from components.embed.step import tuned_or_frozen
from components.home import Home
from ledger.store import ContentStore
from tests.toy import toy_world
from tests.unit.test_tower_tuning import PROFILE


def test_profile_with_tuned_blocks_tunes_once(tmp_path: Path) -> None:
    world = toy_world(60)
    home = Home(tmp_path / "home")
    store = ContentStore(home.content)
    for blob in world.blobs.values():
        store.put(blob)
    snapshot = world.snapshot(tmp_path / "snapshot")
    tuned = tuned_or_frozen(PROFILE, snapshot, home, 3)
    frozen = tuned_or_frozen(PROFILE.model_copy(update={"tuned_blocks": 0}), snapshot, home, 3)
    assert _weights(tuned) != _weights(frozen)
    written = (tuned / "image_tower" / "tower.json").stat().st_mtime_ns
    again = tuned_or_frozen(PROFILE, snapshot, home, 3)
    assert again == tuned
    assert (again / "image_tower" / "tower.json").stat().st_mtime_ns == written


def _weights(towers: Path) -> bytes:
    return (towers / "image_tower" / "weights.safetensors").read_bytes()
