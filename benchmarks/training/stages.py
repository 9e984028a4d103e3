"""The measured stages; each runs in a process of its own and gives plain data back."""

from pathlib import Path
from typing import Any

import numpy as np

_HEAD_ITEMS = 60_000


def make(num_rows: int, folder: str) -> dict[str, Any]:
    """Write the listings and their snapshot: the input, not a stage of training."""
    from benchmarks.training.listings import write_listings

    return {"rows": write_listings(num_rows, Path(folder)).num_rows}


def export(profile: str, folder: str) -> dict[str, Any]:
    """Export the towers, which is done once per profile."""
    from moderation.export import export_towers
    from moderation.profiles import profile_named

    return {"towers": str(export_towers(profile_named(profile), Path(folder)).folder)}


def embed(profile: str, towers: str, folder: str, num_threads: int) -> dict[str, Any]:
    """Embed what the cache lacks."""
    from ledger.store import ContentStore
    from moderation.embedding import Embedder, embed_snapshot
    from moderation.profiles import profile_named
    from moderation.snapshot import Snapshot

    place = Path(folder)
    embedder = Embedder.open(Path(towers), place / "cache.sqlite", num_threads)
    rows = embed_snapshot(
        Snapshot.open(place / "snapshot"),
        ContentStore(place / "content").get,
        embedder,
        folder=place / "rows",
        num_views=profile_named(profile).num_views,
    )
    return {"embeddings": len(rows.images_ED) + len(rows.texts_ED)}


def tune(profile: str, folder: str, num_trials: int) -> dict[str, Any]:
    """Run a study; what it costs without any trial is its import and opening."""
    from moderation.clock import SystemClock
    from moderation.embedded_rows import EmbeddedRows
    from moderation.profiles import profile_named
    from moderation.snapshot import Snapshot
    from moderation.tuning import StudyPlan
    from moderation.tuning import tune as run

    place = Path(folder)
    (place / "studies.sqlite").unlink(missing_ok=True)
    plan = StudyPlan(f"sqlite:///{place}/studies.sqlite", "bench", None, num_trials)
    rows, snapshot = EmbeddedRows.open(place / "rows"), Snapshot.open(place / "snapshot")
    clock = SystemClock()
    begin = clock.monotonic()
    run(rows, snapshot, plan, profile_named(profile).heads)
    return {"trial_s": (clock.monotonic() - begin) / num_trials}


def train(profile: str, folder: str) -> dict[str, Any]:
    """Fit every member on every block, and score every row."""
    from moderation.embedded_rows import EmbeddedRows
    from moderation.profiles import profile_named
    from moderation.snapshot import Snapshot
    from moderation.training import train as run

    place = Path(folder)
    rows, snapshot = EmbeddedRows.open(place / "rows"), Snapshot.open(place / "snapshot")
    table = run(snapshot, rows, place / "members", profile_named(profile).heads, 17)
    return {"scored": int(np.isfinite(table.ngram_NP).all(1).sum())}


def heads(profile: str, folder: str, repeats: int) -> dict[str, Any]:
    """Compare items/s of a fit with those of a plain loop over tensors that lie ready in memory, interleaved."""
    import torch

    from moderation.clock import SystemClock
    from moderation.embedded_rows import EmbeddedRows
    from moderation.fitting import fit_heads, make_task, pinned_torch
    from moderation.lightning_module import count_steps
    from moderation.profiles import profile_named
    from moderation.sampling import Teaching
    from moderation.snapshot import Snapshot

    place = Path(folder)
    rows, snapshot = EmbeddedRows.open(place / "rows"), Snapshot.open(place / "snapshot")
    config = profile_named(profile).heads
    index = np.flatnonzero(snapshot.role == "train")
    taught = Teaching.of(snapshot)
    # Enough steps that the start counts as it does in a training, few enough to repeat.
    per_epoch = make_task(rows, index, taught, config, 17).plan.num_draws
    epochs = max(2, min(config.epochs, _HEAD_ITEMS // per_epoch))
    config = config.model_copy(update={"epochs": epochs})
    task = make_task(rows, index, taught, config, 17)
    num_items = task.plan.num_draws * config.epochs
    clock, ours, plain = SystemClock(), [], []
    for _ in range(repeats):
        begin = clock.monotonic()
        fit_heads(rows, index, taught, config, 17)
        ours.append(num_items / (clock.monotonic() - begin))
        with pinned_torch(17):
            seconds = _plain_loop(task, torch)
        plain.append(num_items / seconds)
    return {"ours": max(ours), "plain": max(plain), "steps": count_steps(task)}


def _plain_loop(task: Any, torch: Any) -> float:
    """Return the seconds of the same steps, written as one would without this project's sampling and memory maps."""
    from moderation.clock import SystemClock
    from moderation.fitting import build_heads
    from moderation.lightning_module import heads_loss

    model, config = build_heads(task).train(), task.config
    drawn = task.plan.draw(17, 0)
    packed = task.rows.packed(drawn)
    starts = np.concatenate([[0], np.cumsum(packed.image_mask_BK.sum(1))])
    images = torch.from_numpy(np.array(packed.images_ID))
    truth = torch.from_numpy(task.taught.truth_NP[drawn])
    mask, text = torch.from_numpy(packed.image_mask_BK), torch.from_numpy(packed.text_BD)
    has_text = torch.from_numpy(packed.has_text_B)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, fused=True)
    clock = SystemClock()
    begin = clock.monotonic()
    for _ in range(config.epochs):
        for start in range(0, len(drawn), config.batch_size):
            end = min(start + config.batch_size, len(drawn))
            batch = {
                "images_ID": images[starts[start] : starts[end]],
                "image_mask_BK": mask[start:end],
                "text_BD": text[start:end],
                "has_text_B": has_text[start:end],
                "truth_BP": truth[start:end],
            }
            loss = heads_loss(model, batch, config)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    return clock.monotonic() - begin
