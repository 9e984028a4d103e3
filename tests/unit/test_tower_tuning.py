"""Tuned towers: only the last blocks move, on rows of the first fold alone, with the same bytes each time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from moderation.embedded_rows import EmbeddedRows
from moderation.embedding import Embedder, embed_snapshot
from moderation.errors import InvalidSnapshot
from moderation.profiles import PROFILES, HeadsConfig, TowerSpec
from moderation.snapshot import Snapshot
from moderation.tower_tuning import tune_towers
from moderation.towers import build_image_tower, build_text_tower
from moderation.training import Training, out_of_fold_signals
from tests.toy import ToyWorld, toy_world

PROFILE = PROFILES["tiny"].model_copy(
    update={
        "image_tower": TowerSpec(
            source="random",
            name="vit_base_patch32_clip_224",
            dim=32,
            options={"img_size": 64, "embed_dim": 32, "depth": 3, "num_heads": 2},
        ),
        "text_tower": TowerSpec(
            source="random",
            name="distilbert",
            dim=32,
            options={"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2},
        ),
        "tuned_blocks": 1,
        "heads": HeadsConfig(hidden=8, epochs=2),
    }
)


@pytest.fixture(scope="module")
def world() -> ToyWorld:
    world = toy_world(80)
    for number, row in enumerate(world.rows):
        row.submission.attributes["split"] = "test" if number % 5 == 0 else "train"
    return world


@pytest.fixture(scope="module")
def snapshot(world: ToyWorld, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return world.snapshot(tmp_path_factory.mktemp("snapshot"))


def test_only_the_last_blocks_move_on_the_first_fold(
    world: ToyWorld, snapshot: Snapshot, tmp_path: Path
) -> None:
    read: set[str] = set()

    def read_blob(digest: str) -> bytes:
        read.add(digest)
        return world.blobs[digest]

    tuned = tune_towers(PROFILE, snapshot, read_blob, tmp_path / "tuned", 3)
    moved = {}
    image = build_image_tower(PROFILE.image_tower)
    text = build_text_tower(PROFILE.text_tower).tower
    for folder, tower in (("image_tower", image), ("text_tower", text)):
        after = load_file(tuned.folder / folder / "weights.safetensors")
        before = tower.state_dict()
        moved[folder] = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved["image_tower"]
    assert all(name.startswith("model.blocks.2.") for name in moved["image_tower"])
    assert moved["text_tower"]
    assert all(".layer.1." in name for name in moved["text_tower"])
    first = (snapshot.role == "train") & (snapshot.fold == 0)
    listings = [row for batch in snapshot.batches() for row in batch.to_pylist()]
    allowed = {d for i in np.flatnonzero(first) for d in listings[i]["image_digests"]}
    assert read <= allowed
    embedder = Embedder.open(tuned.folder, tmp_path / "cache.sqlite")
    rows = embed_snapshot(
        snapshot, world.blobs.__getitem__, embedder, folder=tmp_path / "rows", num_views=1
    )
    _check_first_fold_is_not_judged(snapshot, rows)


def _check_first_fold_is_not_judged(snapshot: Snapshot, rows: EmbeddedRows) -> None:
    training = Training.of(snapshot, rows, PROFILE.heads, 3)
    logits, fold_N = out_of_fold_signals(training)
    first = snapshot.fold == 0
    assert set(fold_N[first].tolist()) == {-1}
    assert np.isnan(logits["fusion_both_NP"][first]).all()
    assert set(fold_N.tolist()) == {-1, 1, 2, 3, 4}


def test_tuned_towers_are_the_same_when_tuned_again(
    world: ToyWorld, snapshot: Snapshot, tmp_path: Path
) -> None:
    digests = set()
    for name in ("first", "second"):
        info = tune_towers(PROFILE, snapshot, world.blobs.__getitem__, tmp_path / name, 3)
        digests.add((info.image_digest, info.text_digest))
    assert len(digests) == 1


def test_tuning_says_so_when_the_first_fold_is_empty(tmp_path: Path) -> None:
    world = toy_world(8)
    for row in world.rows:
        row.submission.attributes["split"] = "test"
    snapshot = world.snapshot(tmp_path / "snapshot")
    with pytest.raises(InvalidSnapshot, match="first fold"):
        tune_towers(PROFILE, snapshot, world.blobs.__getitem__, tmp_path / "towers", 3)
