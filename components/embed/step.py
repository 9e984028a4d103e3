"""Snapshot -> embeddings, through towers that are exported once per profile."""

from pathlib import Path

from components.home import Home
from components.outputs import place_folder
from components.progress import show_progress
from ledger.store import ContentStore
from moderation.embedding import Embedder, embed_snapshot
from moderation.profiles import Profile, profile_named
from moderation.reading import IMAGE_FOLDER, TEXT_FOLDER
from moderation.settings import settings
from moderation.snapshot import Snapshot

# Progress lines of one run: enough to see that it moves, few enough to read.
_LINES = 20


def run(
    table: str, home: str, profile: str, seed: int, *, out: str, towers: str
) -> dict[str, float]:
    """Write the embeddings of the snapshot `table` to `out` and the towers to `towers`; return counts."""
    place, chosen = Home(Path(home)), profile_named(profile)
    exported = tuned_or_frozen(chosen, Snapshot.open(Path(table)), place, seed)
    embedder = Embedder.open(exported, place.embeddings, settings().num_threads)
    shown = 0

    def report(done: int, total: int) -> None:
        nonlocal shown
        if done * _LINES // max(total, 1) > shown:
            shown = done * _LINES // total
            show_progress(done, total, "embeddings")

    rows = embed_snapshot(
        Snapshot.open(Path(table)),
        ContentStore(place.content).get,
        embedder,
        folder=Path(out),
        num_views=chosen.num_views,
        progress=report,
    )
    place_folder(exported, Path(towers))
    return {name: float(rows.info[name]) for name in ("images", "texts", "undecodable")}


def tuned_or_frozen(profile: Profile, snapshot: Snapshot, place: Home, seed: int) -> Path:
    """Return the folder of the towers to embed with: tuned on this snapshot if the profile asks for it."""
    if not profile.tuned_blocks:
        return export(profile, place.towers)
    tuned = place.towers / f"{profile.towers_digest}-{snapshot.digest[:16]}-{seed}"
    if not _is_whole(tuned):
        from moderation.tower_tuning import tune_towers  # torch takes seconds to import

        tune_towers(profile, snapshot, ContentStore(place.content).get, tuned, seed)
    return tuned


def _is_whole(exported: Path) -> bool:
    return all((exported / name / "tower.json").is_file() for name in (IMAGE_FOLDER, TEXT_FOLDER))


def export(profile: Profile, towers: Path) -> Path:
    """Return the folder of the profile's exported towers; only a profile that is new here loads torch."""
    exported = towers / profile.towers_digest
    if _is_whole(exported):
        return exported
    from moderation.export import export_towers  # torch takes seconds to import

    return export_towers(profile, towers).folder
