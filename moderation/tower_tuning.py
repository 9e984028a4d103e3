"""Tuning of the last tower blocks, end to end from images and texts; only profiles that ask for it pay for it.

Towers are tuned on the first fold of the train rows alone. Its rows are never scored out of fold, so every signal that
the meta-learner sees still comes from models that did not see its row. B rows, K image slots, I images, T tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from lightning.fabric import Fabric
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from moderation.augment import image_view, text_view
from moderation.errors import InvalidListing, InvalidSnapshot
from moderation.export import TowersInfo, write_towers
from moderation.fitting import pinned_torch
from moderation.image import decode, to_tensor
from moderation.lightning_module import Batch, StepModule, count_steps, heads_loss, run_epochs
from moderation.network import ListingHeads
from moderation.profiles import HeadsConfig, Profile
from moderation.sampling import EpochPlan, Teaching
from moderation.snapshot import Snapshot
from moderation.text import model_text
from moderation.towers import ImageTower, TextTower, build_image_tower, build_text_tower

_EPOCHS: Final = 3
_BATCH: Final = 32
# Pretrained blocks move in small steps; a step of the heads' size would undo what they know.
_TOWER_RATE: Final = 0.01
_FIRST_FOLD: Final = 0


@dataclass(frozen=True)
class _Row:
    title: str
    description: str
    digests: tuple[str, ...]


@dataclass(frozen=True)
class TowerTask:
    """Rows to tune on, and how a step of them is drawn; rows are numbered within the first fold."""

    rows: Sequence[_Row]
    truth_NP: npt.NDArray[np.int8]
    plan: EpochPlan
    config: HeadsConfig
    seed: int
    num_views_N: npt.NDArray[np.uint8]


def tune_towers(
    profile: Profile,
    snapshot: Snapshot,
    read_blob: Callable[[str], bytes],
    target: Path,
    seed: int,
) -> TowersInfo:
    """Return towers whose last `profile.tuned_blocks` blocks were tuned, exported to `target`.

    On a GPU the arithmetic is bfloat16; on a CPU float32 on one thread, so that the same inputs give the same bytes.

    Args:
        profile: names the towers.
        snapshot: its first fold of train rows is tuned on.
        read_blob: gives the bytes of an image by digest.
        target: folder to write.
        seed: of heads, draws and views.

    Raises:
        InvalidSnapshot: if the first fold has no known truth.
    """
    task = _task(profile, snapshot, seed)
    image, text = build_image_tower(profile.image_tower), build_text_tower(profile.text_tower)
    steps = _Steps(task, profile, read_blob, Tokenizer.from_str(text.tokenizer))
    fabric = Fabric(devices=1, precision="bf16-mixed" if torch.cuda.is_available() else "32-true")
    with pinned_torch(seed):
        dims = profile.image_tower.dim, profile.text_tower.dim
        heads = ListingHeads(*dims, len(snapshot.policy_ids), task.config)
        module = _TowersModule(image, text.tower, heads, task, profile.tuned_blocks)
        run_epochs(module, task, steps, fabric)
    return write_towers(profile, image, text, target, tuned_fold=_FIRST_FOLD)


def _task(profile: Profile, snapshot: Snapshot, seed: int) -> TowerTask:
    is_chosen_N = (snapshot.role == "train") & (snapshot.fold == _FIRST_FOLD)
    rows: list[_Row] = []
    begin = 0
    for batch in snapshot.batches(["title", "description", "image_digests"]):
        for offset in np.flatnonzero(is_chosen_N[begin : begin + batch.num_rows]):
            row = batch.slice(int(offset), 1).to_pylist()[0]
            rows.append(_Row(row["title"], row["description"], tuple(row["image_digests"])))
        begin += batch.num_rows
    truth_NP = snapshot.truth_NP()[is_chosen_N]
    config = profile.heads.model_copy(update={"epochs": _EPOCHS, "batch_size": _BATCH})
    taught = Teaching(truth_NP, snapshot.weight[is_chosen_N], snapshot.emphasis[is_chosen_N])
    plan = EpochPlan.of(np.arange(len(rows)), taught, config.negatives_per_positive)
    if not len(plan.rows_R):
        raise InvalidSnapshot("the first fold of the train rows has no known truth to tune towers")
    num_views_N = np.full(len(rows), profile.num_views, np.uint8)
    return TowerTask(rows, truth_NP, plan, config, seed, num_views_N)


class _Steps:
    """Pixels, tokens and truth of one step; images are read when they are needed."""

    def __init__(
        self,
        task: TowerTask,
        profile: Profile,
        read_blob: Callable[[str], bytes],
        tokenizer: Tokenizer,
    ) -> None:
        self._task, self._profile, self._read = task, profile, read_blob
        self._tokenizer = tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(profile.max_tokens)

    def __call__(self, index_B: npt.NDArray[np.int64], views_B: npt.NDArray[np.int64]) -> Batch:
        rows = [self._task.rows[row] for row in index_B]
        images = [self._images(row, int(view)) for row, view in zip(rows, views_B, strict=True)]
        num_slots = max(1, *(len(row_images) for row_images in images))
        slots_BK = np.arange(num_slots) < np.array([[len(row_images)] for row_images in images])
        size = self._profile.image_size
        flat = [pixels for row_images in images for pixels in row_images]
        pixels_ICHW = np.stack(flat) if flat else np.zeros((0, 3, size, size), np.float32)
        texts = [
            model_text(*_varied(row, int(v))).strip() for row, v in zip(rows, views_B, strict=True)
        ]
        ids = [self._tokenizer.encode(text).ids for text in texts]
        ids_BT = np.zeros((len(ids), max(map(len, ids))), np.int64)
        mask_BT = np.zeros_like(ids_BT)
        for row, tokens in enumerate(ids):
            ids_BT[row, : len(tokens)], mask_BT[row, : len(tokens)] = tokens, 1
        arrays: dict[str, npt.NDArray[Any]] = {
            "pixels_ICHW": pixels_ICHW,
            "image_mask_BK": slots_BK,
            "ids_BT": ids_BT,
            "mask_BT": mask_BT,
            "has_text_B": np.array([bool(text) for text in texts]),
            "truth_BP": self._task.truth_NP[index_B],
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _images(self, row: _Row, view: int) -> list[npt.NDArray[np.float32]]:
        profile, pixels = self._profile, []
        for digest in row.digests:
            try:
                image = decode(self._read(digest))
            except InvalidListing:
                continue  # an image that cannot be read is missing, as it is when it is served
            if view:
                image = image_view(image, view, int(digest[:8], 16))
            pixels.append(to_tensor(image, profile.image_size, profile.mean, profile.std))
        return pixels


def _varied(row: _Row, view: int) -> tuple[str, str]:
    return (
        text_view(row.title, row.description, view, view) if view else (row.title, row.description)
    )


class _TowersModule(StepModule):
    """Both towers under fresh heads; everything but the last blocks stays as it is."""

    def __init__(
        self,
        image: ImageTower,
        text: TextTower,
        heads: ListingHeads,
        task: TowerTask,
        tuned_blocks: int,
    ) -> None:
        super().__init__()
        self.image, self.text, self.heads = image, text, heads
        self._task = task
        self._tuned = [*image.blocks()[-tuned_blocks:], *text.blocks()[-tuned_blocks:]]
        for parameter in [*image.parameters(), *text.parameters()]:
            parameter.requires_grad_(False)
        for block in self._tuned:
            block.requires_grad_(True)

    def on_train_epoch_start(self) -> None:
        """Keep the towers' statistics and dropout as they will be served."""
        self.image.eval()
        self.text.eval()

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the loss of one step."""
        embedded = {
            **batch,
            "images_ID": self.image(batch["pixels_ICHW"]).float(),
            "text_BD": self.text(batch["ids_BT"], batch["mask_BT"]).float(),
        }
        return heads_loss(self.heads, embedded, self._task.config)

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        """Return AdamW with small steps for the towers."""
        config = self._task.config
        blocks = nn.ModuleList(self._tuned)
        groups = [
            {"params": list(self.heads.parameters()), "lr": config.learning_rate},
            {"params": list(blocks.parameters()), "lr": config.learning_rate * _TOWER_RATE},
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
        scheduler = torch.optim.lr_scheduler.LinearLR(
            optimizer, 1.0, 0.1, total_iters=count_steps(self._task)
        )
        return [optimizer], [scheduler]
