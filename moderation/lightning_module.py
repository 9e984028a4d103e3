"""The heads as a Lightning module and the steps of their fit; the same on one process and on many.

B rows of a batch, P policies. Every process draws the same epoch and takes its share of each batch, so that the
gradient of a step does not depend on how many processes work on it.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Protocol

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from moderation.embedded_rows import EmbeddedRows
from moderation.network import ListingHeads
from moderation.profiles import HeadsConfig
from moderation.sampling import EpochPlan, Teaching

_WARM_UP: Final = 0.1

Step = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
Batch = dict[str, Tensor]


class Draws(Protocol):
    """What decides the steps of a fit."""

    @property
    def plan(self) -> EpochPlan:
        """How often each row is drawn."""
        ...

    @property
    def config(self) -> HeadsConfig:
        """Size of a batch, number of epochs and share of augmented views."""
        ...

    @property
    def seed(self) -> int:
        """Seed of the draws."""
        ...

    @property
    def num_views_N(self) -> npt.NDArray[np.uint8]:
        """Views that each row can be read through."""
        ...


def count_steps(draws: Draws) -> int:
    """Return the optimiser steps of a whole fit."""
    per_epoch = -(-draws.plan.num_draws // draws.config.batch_size)
    return max(1, per_epoch * draws.config.epochs)


@dataclass(frozen=True)
class Task:
    """What heads are fitted to."""

    rows: EmbeddedRows
    taught: Teaching
    plan: EpochPlan
    config: HeadsConfig
    seed: int

    @property
    def num_views_N(self) -> npt.NDArray[np.uint8]:
        """Views that each row has."""
        return self.rows.num_views_N


def draw_steps(draws: Draws, epoch: int, rank: int = 0, num_ranks: int = 1) -> Iterator[Step]:
    """Yield (rows, views) of each step of an epoch; `rank` of `num_ranks` takes its share."""
    index = draws.plan.draw(draws.seed, epoch)
    rng = np.random.default_rng([draws.seed, epoch, 1])
    num_views = draws.num_views_N[index].astype(np.int64)
    augmented = 1 + np.floor(rng.random(len(index)) * (num_views - 1)).astype(np.int64)
    is_augmented = (rng.random(len(index)) < draws.config.view_mix) & (num_views > 1)
    views = np.where(is_augmented, augmented, 0)
    for begin in range(0, len(index), draws.config.batch_size):
        end = begin + draws.config.batch_size
        # The last batch may be smaller than the number of processes; then all of them take it whole.
        share = slice(begin + rank, end, num_ranks)
        if len(index) - begin < num_ranks:
            share = slice(begin, end)
        yield index[share], views[share]


def to_tensors(
    task: Task, index_B: npt.NDArray[np.int64], views_B: npt.NDArray[np.int64] | None = None
) -> Batch:
    """Return images_ID without empty slots, the masks, text_BD and truth_BP."""
    packed = task.rows.packed(index_B, views_B)
    arrays: dict[str, Any] = {**vars(packed), "truth_BP": task.taught.truth_NP[index_B]}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


class StepModule(pl.LightningModule):
    """A module whose learning rate moves with every step."""

    @abstractmethod
    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        """Return one optimiser and its schedule."""


class HeadsModule(StepModule):
    """Fits every head side by side; they share batches, not parameters."""

    def __init__(self, heads: ListingHeads, config: HeadsConfig, num_steps: int) -> None:
        super().__init__()
        self.heads, self._config, self._num_steps = heads, config, num_steps

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the loss of one step."""
        return heads_loss(self.heads, batch, self._config)

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        """Return AdamW with one cycle of the learning rate, which moves with every step.

        Weights decay, biases and vectors of absence do not.
        """
        config = self._config
        parameters = [p for p in self.heads.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, config.learning_rate, total_steps=self._num_steps + 1, pct_start=_WARM_UP
        )
        return [optimizer], [scheduler]


def run_epochs(
    module: StepModule,
    draws: Draws,
    read: Callable[..., Batch],
    fabric: Fabric | None = None,
    on_epoch: Callable[[int], None] | None = None,
) -> None:
    """Fit a module in place, by Lightning's Fabric: under its trainer a step of small heads takes half as long again.

    Args:
        module: takes the steps.
        draws: what decides the steps.
        read: gives the batch of (rows, views).
        fabric: devices, strategy and precision, launched; one CPU by default.
        on_epoch: told of each finished epoch; what it raises ends the fit.
    """
    fabric = fabric or _one_cpu()
    [optimizer], [scheduler] = module.configure_optimizers()
    wrapped, optimizer = fabric.setup(module, optimizer)
    for epoch in range(draws.config.epochs):
        module.train()
        module.on_train_epoch_start()
        steps = draw_steps(draws, epoch, fabric.global_rank, fabric.world_size)
        for number, (index_B, views_B) in enumerate(steps):
            batch = fabric.to_device(read(index_B, views_B))
            loss = wrapped.training_step(batch, number)
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
            scheduler.step()
        if on_epoch:
            on_epoch(epoch)


@cache
def _one_cpu() -> Fabric:
    """Return the same one each time: building it looks through every installed package."""
    return Fabric(accelerator="cpu", devices=1)


def heads_loss(heads: ListingHeads, batch: Batch, config: HeadsConfig) -> Tensor:
    """Return the summed loss of the three heads; fusion is shown some rows with one modality withheld.

    Unknown truth, and a head whose modality is absent, count nothing.
    """
    mask_BK, has_text_B = batch["image_mask_BK"], batch["has_text_B"]
    truth_BP = batch["truth_BP"]
    chance_B = torch.rand(len(has_text_B), device=has_text_B.device)
    has_both_B = mask_BK.any(1) & has_text_B
    drops_image_B = has_both_B & (chance_B < config.modality_dropout)
    drops_text_B = has_both_B & (chance_B > 1 - config.modality_dropout)
    images_ID, text_BD = heads.prepare(batch["images_ID"], batch["text_BD"])
    image_BP, _ = heads.image_logits(images_ID, mask_BK)
    text_BP = heads.text_logits(text_BD)
    shown = (mask_BK & ~drops_image_B[:, None], has_text_B & ~drops_text_B)
    fusion_BP = heads.fusion_logits(images_ID, mask_BK, text_BD, shown)
    has_image_B = mask_BK.any(1)
    return (
        _masked_loss(image_BP, truth_BP, has_image_B)
        + _masked_loss(text_BP, truth_BP, has_text_B)
        + _masked_loss(fusion_BP, truth_BP, has_image_B | has_text_B)
    )


def _masked_loss(logits_BP: Tensor, truth_BP: Tensor, is_seen_B: Tensor) -> Tensor:
    """Return the cross-entropy over known truth of the rows that a head sees, per entry of the batch.

    Dividing by the batch, not by what counts in it, makes the mean over processes equal that of the whole batch.
    """
    counts_BP = ((truth_BP >= 0) & is_seen_B[:, None]).to(logits_BP.dtype)
    loss_BP = nn.functional.binary_cross_entropy_with_logits(
        logits_BP, truth_BP.clamp(min=0).to(logits_BP.dtype), reduction="none"
    )
    return (loss_BP * counts_BP).mean()
