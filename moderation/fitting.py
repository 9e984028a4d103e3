"""Fitting of heads to cached embeddings, and the logits that fitted heads give.

The result depends on rows, configuration and seed alone: one thread, deterministic kernels, seeded draws.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch

from moderation.embedded_rows import EmbeddedRows
from moderation.errors import InvalidSnapshot
from moderation.lightning_module import (
    HeadsModule,
    RowsModule,
    StepSampler,
    Task,
    build_optimizer,
    count_steps,
    heads_loss,
    to_tensors,
)
from moderation.network import ListingHeads
from moderation.profiles import HeadsConfig
from moderation.sampling import EpochPlan

_SCORE_ROWS: Final = 512
# Means and deviations of embeddings settle long before this many rows.
_STANDARDISE_ROWS: Final = 4_096

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Fit = Callable[[ListingHeads, Task], None]


@dataclass(frozen=True)
class HeadSignals:
    """Logits of fitted heads for R rows; NaN where the modality is absent."""

    image_RP: Floats
    text_RP: Floats
    fusion_both_RP: Floats
    fusion_image_RP: Floats
    fusion_text_RP: Floats


@contextmanager
def pinned_torch(seed: int) -> Iterator[None]:
    """Make torch give the same bits again: one thread, deterministic kernels, a seed; restored afterwards."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic)
            torch.set_num_threads(threads)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advice on loaders and hardware out of logs; errors still raise."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def fit_heads(
    rows: EmbeddedRows,
    index_R: Indices,
    truth_NP: npt.NDArray[np.int8],
    weight_N: Floats,
    config: HeadsConfig,
    seed: int,
) -> ListingHeads:
    """Return heads fitted to the rows `index_R`, their logits at the base rate of the weights.

    Args:
        rows: embeddings of N rows.
        index_R: rows to fit on.
        truth_NP: 1 violates, 0 does not, -1 unknown; unknown truth counts nothing.
        weight_N: inverse inclusion probabilities.
        config: shape of the heads and how to fit them.
        seed: of initial weights, draws, views and dropout.

    Raises:
        InvalidSnapshot: if no row of `index_R` has a known truth.
    """
    return fit_task(
        make_task(rows, index_R, truth_NP, weight_N, config, seed), weight_N, lightning_fit
    )


def make_task(
    rows: EmbeddedRows,
    index_R: Indices,
    truth_NP: npt.NDArray[np.int8],
    weight_N: Floats,
    config: HeadsConfig,
    seed: int,
) -> Task:
    """Return what `fit_task` fits; the arguments are those of `fit_heads`."""
    plan = EpochPlan.of(index_R, truth_NP, weight_N, config.negatives_per_positive)
    if not len(plan.rows_R):
        raise InvalidSnapshot("no row to train on has a known truth; review or import some")
    return Task(rows, truth_NP, plan, config, seed)


def fit_task(task: Task, weight_N: Floats, fit: Fit) -> ListingHeads:
    """Return heads fitted by `fit`, standardised before and corrected for the drawn base rate after."""
    with pinned_torch(task.seed):
        heads = build_heads(task)
        fit(heads, task)
        heads.eval()
        is_seen = (
            task.rows.num_images_N > 0,
            task.rows.has_text_N,
            (task.rows.num_images_N > 0) | task.rows.has_text_N,
        )
        shift_3P = [task.plan.shift_P(task.truth_NP, weight_N, seen_N) for seen_N in is_seen]
        heads.shift_3P.copy_(torch.from_numpy(np.stack(shift_3P)))
    return heads


def build_heads(task: Task) -> ListingHeads:
    """Return heads before their first step, standardised to the rows of the task."""
    rows = task.rows
    heads = ListingHeads(rows.image_dim, rows.text_dim, task.truth_NP.shape[1], task.config)
    sample = np.sort(task.plan.rows_R)
    sample = sample[:: max(1, -(-len(sample) // _STANDARDISE_ROWS))]
    batch = rows.packed(sample)
    heads.standardise(
        torch.from_numpy(batch.images_ID),
        torch.from_numpy(batch.text_BD[batch.has_text_B]),
    )
    return heads


def lightning_fit(heads: ListingHeads, task: Task, **trainer_options: Any) -> None:
    """Fit by Lightning; `trainer_options` choose devices and strategy where there are several."""
    options: dict[str, Any] = {"accelerator": "cpu", "devices": 1} | trainer_options
    with quiet_lightning():
        trainer = pl.Trainer(
            max_epochs=task.config.epochs,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            deterministic=True,
            **options,
        )
        trainer.fit(HeadsModule(heads, task.config, count_steps(task)), datamodule=RowsModule(task))


def plain_epochs(heads: ListingHeads, task: Task) -> Iterator[int]:
    """Fit by a bare loop, the same steps as `lightning_fit` takes; yield each finished epoch."""
    optimizer, scheduler = build_optimizer(heads, task.config, count_steps(task))
    sampler = StepSampler(task)
    for epoch in range(task.config.epochs):
        heads.train()
        sampler.set_epoch(epoch)
        for index_B, views_B in sampler:
            loss = heads_loss(heads, to_tensors(task, index_B, views_B), task.config)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            scheduler.step()
        yield epoch


def score_heads(heads: ListingHeads, rows: EmbeddedRows, index_R: Indices) -> HeadSignals:
    """Return the logits of the rows `index_R` as they were submitted, also with one modality withheld."""
    num_policies = heads.shift_3P.shape[1]
    columns = [np.full((len(index_R), num_policies), np.nan) for _ in range(5)]
    with pinned_torch(0), torch.no_grad():
        heads.eval()
        for begin in range(0, len(index_R), _SCORE_ROWS):
            place = slice(begin, begin + _SCORE_ROWS)
            batch = rows.batch(index_R[place])
            images, mask, text, has_text = (torch.from_numpy(a) for a in vars(batch).values())
            has_image = mask.any(1)
            both = heads(images, mask, text, has_text)
            without_text = heads(images, mask, text, torch.zeros_like(has_text)).fusion_BP
            without_image = heads(images, torch.zeros_like(mask), text, has_text).fusion_BP
            pairs = (
                (both.image_BP, has_image),
                (both.text_BP, has_text),
                (both.fusion_BP, has_image & has_text),
                (without_text, has_image),
                (without_image, has_text),
            )
            for column, (logits_BP, is_there_B) in zip(columns, pairs, strict=True):
                column[place] = np.where(
                    is_there_B[:, None].numpy(), logits_BP.double().numpy(), np.nan
                )
    return HeadSignals(*columns)
