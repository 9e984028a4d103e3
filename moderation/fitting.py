"""Fitting of heads to cached embeddings, and the logits that fitted heads give.

The result depends on rows, configuration and seed alone: one thread, deterministic kernels, seeded draws.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from lightning.fabric import Fabric

from moderation.embedded_rows import EmbeddedRows
from moderation.errors import InvalidSnapshot
from moderation.lightning_module import (
    HeadsModule,
    Task,
    count_steps,
    run_epochs,
    to_tensors,
)
from moderation.network import ListingHeads
from moderation.profiles import HeadsConfig
from moderation.sampling import EpochPlan, Teaching

_SCORE_ROWS: Final = 512
# Means and deviations of embeddings settle long before this many rows.
_STANDARDISE_ROWS: Final = 4_096

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
OnEpoch = Callable[[int, ListingHeads], None]


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


def fit_heads(
    rows: EmbeddedRows,
    index_R: Indices,
    taught: Teaching,
    config: HeadsConfig,
    seed: int,
) -> ListingHeads:
    """Return heads fitted to the rows `index_R`, their logits at the base rate of the weights.

    Args:
        rows: embeddings of N rows.
        index_R: rows to fit on.
        taught: truth, weight and emphasis of the N rows; unknown truth counts nothing.
        config: shape of the heads and how to fit them.
        seed: of initial weights, draws, views and dropout.

    Raises:
        InvalidSnapshot: if no row of `index_R` has a known truth.
    """
    return fit_task(make_task(rows, index_R, taught, config, seed))


def make_task(
    rows: EmbeddedRows,
    index_R: Indices,
    taught: Teaching,
    config: HeadsConfig,
    seed: int,
) -> Task:
    """Return what `fit_task` fits; the arguments are those of `fit_heads`."""
    plan = EpochPlan.of(index_R, taught, config.negatives_per_positive)
    if not len(plan.rows_R):
        raise InvalidSnapshot("no row to train on has a known truth; review or import some")
    return Task(rows, taught, plan, config, seed)


def fit_task(task: Task, on_epoch: OnEpoch | None = None) -> ListingHeads:
    """Return fitted heads, standardised before and corrected for the drawn base rate after.

    Args:
        task: what to fit them to.
        on_epoch: told of each finished epoch; what it raises ends the fit.
    """
    with pinned_torch(task.seed):
        heads = build_heads(task)
        run_heads(heads, task, on_epoch=on_epoch)
        heads.eval()
        is_seen = (
            task.rows.num_images_N > 0,
            task.rows.has_text_N,
            (task.rows.num_images_N > 0) | task.rows.has_text_N,
        )
        shift_3P = [task.plan.shift_P(task.taught, seen_N) for seen_N in is_seen]
        heads.shift_3P.copy_(torch.from_numpy(np.stack(shift_3P)))
    return heads


def run_heads(
    heads: ListingHeads, task: Task, fabric: Fabric | None = None, on_epoch: OnEpoch | None = None
) -> None:
    """Take every step of a fit of heads, in place, on the devices of `fabric`."""

    def told(epoch: int) -> None:
        if on_epoch:
            on_epoch(epoch, heads)

    module = HeadsModule(heads, task.config, count_steps(task))
    run_epochs(module, task, partial(to_tensors, task), fabric, told)


def build_heads(task: Task) -> ListingHeads:
    """Return heads before their first step, standardised to the rows of the task."""
    rows = task.rows
    heads = ListingHeads(rows.image_dim, rows.text_dim, task.taught.truth_NP.shape[1], task.config)
    sample = np.sort(task.plan.rows_R)
    sample = sample[:: max(1, -(-len(sample) // _STANDARDISE_ROWS))]
    batch = rows.packed(sample)
    heads.standardise(
        torch.from_numpy(batch.images_ID),
        torch.from_numpy(batch.text_BD[batch.has_text_B]),
    )
    return heads


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
