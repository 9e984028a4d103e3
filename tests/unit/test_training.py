"""Training: the same bytes from the same inputs, and no row scored by a member that saw it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Generator
from torch.utils.data import DataLoader, IterableDataset

from moderation.boosting import BoostingModel
from moderation.embedded_rows import EmbeddedRows
from moderation.embedding import Embedder, embed_snapshot
from moderation.errors import InvalidSnapshot
from moderation.fitting import (
    build_heads,
    fit_heads,
    fit_task,
    make_task,
    pinned_torch,
    score_heads,
)
from moderation.lightning_module import (
    Batch,
    HeadsModule,
    Task,
    count_steps,
    draw_steps,
    heads_loss,
    to_tensors,
)
from moderation.network import load_heads
from moderation.ngram import NgramModel
from moderation.profiles import HeadsConfig
from moderation.sampling import Teaching
from moderation.signals import SignalTable
from moderation.snapshot import Snapshot
from moderation.text import ngram_texts
from moderation.training import Training, plan_folds, train
from tests.tiny_bundle import TinyRun
from tests.toy import toy_world

CONFIG = HeadsConfig(hidden=8, epochs=4, batch_size=32)
SEED = 5


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return toy_world(160).snapshot(tmp_path_factory.mktemp("snapshot"))


@pytest.fixture(scope="module")
def rows(
    tiny: TinyRun, snapshot: Snapshot, tmp_path_factory: pytest.TempPathFactory
) -> EmbeddedRows:
    folder = tmp_path_factory.mktemp("embeddings")
    embedder = Embedder.open(tiny.parts["image_tower"].parent, folder / "cache.sqlite")
    blobs = toy_world(160).blobs
    return embed_snapshot(
        snapshot, blobs.__getitem__, embedder, folder=folder / "rows", num_views=2
    )


@pytest.fixture(scope="module")
def trained(
    snapshot: Snapshot, rows: EmbeddedRows, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("training") / "members"
    train(snapshot, rows, folder, CONFIG, SEED)
    return folder


def _bytes(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_training_gives_the_same_bytes_when_repeated(
    snapshot: Snapshot, rows: EmbeddedRows, trained: Path, tmp_path: Path
) -> None:
    torch.manual_seed(99)
    train(snapshot, rows, tmp_path / "members", CONFIG, SEED)
    assert _bytes(tmp_path / "members") == _bytes(trained)
    assert [path.name for path in tmp_path.iterdir()] == ["members"]


def test_saved_members_say_what_the_table_says(
    snapshot: Snapshot, rows: EmbeddedRows, trained: Path
) -> None:
    table = SignalTable.load(trained / "signals.npz")
    index = np.flatnonzero(table.role == "test")
    heads = score_heads(load_heads(trained / "heads"), rows, index)
    np.testing.assert_array_equal(heads.image_RP, table.image_NP[index])
    np.testing.assert_array_equal(heads.fusion_text_RP, table.fusion_text_NP[index])
    behaviour = BoostingModel.load(trained / "behaviour").logits(snapshot.behaviour_NF()[index])
    np.testing.assert_array_equal(behaviour, table.behaviour_NP[index])
    with_text = index[rows.has_text_N[index]]
    listings = [row for batch in snapshot.batches() for row in batch.to_pylist()]
    texts = [ngram_texts(listings[i]["title"], listings[i]["description"]) for i in with_text]
    ngram = NgramModel.load(trained / "ngram").logits(texts)
    np.testing.assert_allclose(ngram, table.ngram_NP[with_text], atol=1e-9)


def test_table_is_empty_exactly_where_a_modality_is_absent(
    snapshot: Snapshot, rows: EmbeddedRows, trained: Path
) -> None:
    table = SignalTable.load(trained / "signals.npz")
    is_scored_N = (table.role != "train") | (table.fold >= 0)
    has_image_N, has_text_N = rows.num_images_N > 0, rows.has_text_N
    has_behaviour_N = ~np.isnan(snapshot.behaviour_NF()).all(1)
    for name, is_there_N in {
        "image_NP": has_image_N,
        "fusion_image_NP": has_image_N,
        "text_NP": has_text_N,
        "ngram_NP": has_text_N,
        "fusion_text_NP": has_text_N,
        "fusion_both_NP": has_image_N & has_text_N,
        "behaviour_NP": has_behaviour_N,
    }.items():
        is_finite_N = np.isfinite(getattr(table, name)).all(1)
        np.testing.assert_array_equal(is_finite_N, is_there_N & is_scored_N, err_msg=name)
    assert set(table.select("train").fold.tolist()) == {1, 2, 3}


def test_folds_look_back_only_when_rows_have_times(snapshot: Snapshot) -> None:
    time_N = snapshot.column("submitted_at")
    folds = list(plan_folds(snapshot))
    assert [fold for fold, _, _ in folds] == [1, 2, 3]
    for _, fit_R, score_R in folds:
        assert time_N[fit_R].max() < time_N[score_R].min()
        assert set(snapshot.role[fit_R]) == set(snapshot.role[score_R]) == {"train"}


def test_folds_share_no_group_when_the_split_is_declared(tmp_path: Path) -> None:
    world = toy_world(60)
    for number, row in enumerate(world.rows):
        row.submission.attributes["split"] = "test" if number % 5 == 0 else "train"
    snapshot = world.snapshot(tmp_path)
    scored = []
    for _, fit_R, score_R in plan_folds(snapshot):
        assert not set(snapshot.group[fit_R]) & set(snapshot.group[score_R])
        scored += score_R.tolist()
    assert sorted(scored) == np.flatnonzero(snapshot.role == "train").tolist()


@pytest.mark.filterwarnings("ignore:.*treespec:FutureWarning")
def test_a_fit_takes_the_steps_of_lightnings_own_trainer(
    snapshot: Snapshot, rows: EmbeddedRows
) -> None:
    index = np.flatnonzero(snapshot.role == "train")
    task = make_task(rows, index, Teaching.of(snapshot), CONFIG, SEED)
    with pinned_torch(SEED):
        by_trainer = build_heads(task)
        module = HeadsModule(by_trainer, CONFIG, count_steps(task))
        module.configure_optimizers = _every_step(module.configure_optimizers)  # type: ignore[method-assign]
        trainer = pl.Trainer(
            max_epochs=CONFIG.epochs,
            barebones=True,
            accelerator="cpu",
            devices=1,
            use_distributed_sampler=False,
        )
        trainer.fit(module, DataLoader(_Steps(task), batch_size=None, generator=Generator()))
    ours = fit_task(task)
    for (name, theirs), parameter in zip(
        by_trainer.named_parameters(), ours.parameters(), strict=True
    ):
        assert torch.equal(theirs, parameter), name


class _Steps(IterableDataset[Batch]):
    """The steps of a fit as a data set, which the trainer asks for; each pass is an epoch."""

    def __init__(self, task: Task) -> None:
        self._task, self._epochs = task, count()

    def __iter__(self) -> Iterator[Batch]:
        for step in draw_steps(self._task, next(self._epochs)):
            yield to_tensors(self._task, *step)


def _every_step(configure: Callable[[], Any]) -> Callable[[], Any]:
    """Let the trainer move the learning rate with every step, not with every epoch."""

    def configured() -> Any:
        [optimizer], [scheduler] = configure()
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    return configured


def test_unknown_truth_changes_nothing(snapshot: Snapshot, rows: EmbeddedRows) -> None:
    index = np.flatnonzero(snapshot.role == "train")
    task = make_task(rows, index, Teaching.of(snapshot), CONFIG, SEED)
    batch = to_tensors(task, index[:32])
    heads = build_heads(task).eval()
    hidden = {**batch, "truth_BP": batch["truth_BP"].clone()}
    hidden["truth_BP"][:, 1] = -1
    loss = heads_loss(heads, hidden, CONFIG.model_copy(update={"modality_dropout": 0.0}))
    gradient = torch.autograd.grad(loss, heads.text_head[-1].bias)[0]  # type: ignore[index]
    assert gradient[1] == 0
    assert (gradient[[0, 2]] != 0).all()


def test_processes_share_each_batch_between_them(snapshot: Snapshot, rows: EmbeddedRows) -> None:
    index = np.flatnonzero(snapshot.role == "train")
    task = make_task(rows, index, Teaching.of(snapshot), CONFIG, SEED)
    shares = [(0, 1), (0, 2), (1, 2)]
    whole, first, second = (list(draw_steps(task, 0, *share)) for share in shares)
    assert len(whole) * CONFIG.epochs == count_steps(task)
    for (all_B, _), (left_B, _), (right_B, _) in zip(whole, first, second, strict=True):
        assert sorted(all_B.tolist()) == sorted([*left_B.tolist(), *right_B.tolist()])


def test_a_fit_takes_emphasised_rows_more_often(snapshot: Snapshot, rows: EmbeddedRows) -> None:
    index, taught = np.flatnonzero(snapshot.role == "train"), Teaching.of(snapshot)
    violating = index[(taught.truth_NP[index] == 1).any(1)]
    emphasis_N = np.ones(rows.num_rows)
    emphasis_N[violating[:5]] = 3.0
    task = make_task(rows, index, replace(taught, emphasis_N=emphasis_N), CONFIG, SEED)
    taken = np.concatenate([index_B for index_B, _ in draw_steps(task, 0)])
    counts = np.bincount(taken, minlength=rows.num_rows)
    assert set(counts[violating[:5]]) == {3}
    assert set(counts[violating[5:]]) == {1}


def test_logits_are_at_the_base_rate_of_the_weights(tiny: TinyRun) -> None:
    """A head that stays at 0 answers with the correction alone: from the drawn odds to the real ones."""
    home = tiny.parts["heads"].parent
    rows = EmbeddedRows.open(home / "rows")
    rng = np.random.default_rng(0)
    truth_NP = (rng.random((rows.num_rows, 3)) < 0.2).astype(np.int8)
    weight_N = np.where(truth_NP.any(1), 1.0, 40.0)
    config = HeadsConfig(head="linear", epochs=1, learning_rate=1e-6)
    heads = fit_heads(rows, np.arange(rows.num_rows), Teaching(truth_NP, weight_N), config, SEED)
    with_text = np.flatnonzero(rows.has_text_N)
    logits_RP = score_heads(heads, rows, with_text).text_RP
    weight_R = weight_N[with_text]
    for p in range(3):
        is_violating_R = truth_NP[with_text, p] == 1
        real = weight_R[is_violating_R].sum() / weight_R[~is_violating_R].sum()
        # Fewer than 4 others per violating row: an epoch draws each row about once, so that its odds are the counts'.
        drawn = is_violating_R.sum() / (~is_violating_R).sum()
        assert np.median(logits_RP[:, p]) == pytest.approx(np.log(real / drawn), abs=0.05)


def test_training_says_so_when_no_truth_is_known(rows: EmbeddedRows) -> None:
    unknown_NP = np.full((rows.num_rows, 3), -1, np.int8)
    taught = Teaching(unknown_NP, np.ones(rows.num_rows))
    with pytest.raises(InvalidSnapshot, match="no row to train on"):
        fit_heads(rows, np.arange(rows.num_rows), taught, CONFIG, SEED)


def test_training_refuses_embeddings_of_another_snapshot(tiny: TinyRun, snapshot: Snapshot) -> None:
    other = EmbeddedRows.open(tiny.parts["heads"].parent / "rows")
    with pytest.raises(InvalidSnapshot, match="another snapshot"):
        Training.of(snapshot, other, CONFIG, SEED)


def test_pinned_torch_leaves_no_trace() -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    state = torch.get_rng_state()
    with pinned_torch(3):
        torch.rand(5)
        assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (1, True)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
def test_two_processes_fit_together(snapshot: Snapshot, rows: EmbeddedRows, tmp_path: Path) -> None:
    import subprocess
    import sys

    script = Path(__file__).with_name("ddp_fit.py")
    out = tmp_path / "done.json"
    command = [sys.executable, str(script), str(snapshot.folder), str(rows.folder), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(out.read_text())
    assert result["world_size"] == 2
    assert result["largest_gap"] < 1e-3
