"""Fits heads in two gloo processes without dropout and compares them with a fit in one; run as a script."""

import json
import sys
from pathlib import Path

import numpy as np
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy

from moderation.embedded_rows import EmbeddedRows
from moderation.fitting import build_heads, make_task, pinned_torch, run_heads
from moderation.lightning_module import Task
from moderation.network import ListingHeads
from moderation.profiles import HeadsConfig
from moderation.sampling import Teaching
from moderation.snapshot import Snapshot

# Without dropout a step depends on its batch alone, so both fits must come out alike.
CONFIG = HeadsConfig(
    head="linear", hidden=8, epochs=3, dropout=0, modality_dropout=0, batch_size=16
)


def fitted(task: Task, fabric: Fabric | None = None) -> ListingHeads:
    """Return heads after their last step."""
    with pinned_torch(task.seed):
        heads = build_heads(task)
        run_heads(heads, task, fabric)
    return heads.eval()


def main(snapshot_folder: str, rows_folder: str, out: str) -> None:
    """Write the world size and the largest difference of a weight to `out`, from the first process."""
    import torch

    strategy = DDPStrategy(process_group_backend="gloo")
    fabric = Fabric(accelerator="cpu", devices=2, strategy=strategy)
    fabric.launch()
    snapshot, rows = Snapshot.open(Path(snapshot_folder)), EmbeddedRows.open(Path(rows_folder))
    index = np.flatnonzero(snapshot.role == "train")
    task = make_task(rows, index, Teaching.of(snapshot), CONFIG, 5)
    together = fitted(task, fabric)
    world_size = torch.distributed.get_world_size()
    if torch.distributed.get_rank() == 0:
        torch.distributed.destroy_process_group()
        alone = fitted(task)
        pairs = zip(together.parameters(), alone.parameters(), strict=True)
        gap = max(float((a - b).abs().max()) for a, b in pairs)
        Path(out).write_text(json.dumps({"world_size": world_size, "largest_gap": gap}))


if __name__ == "__main__":
    main(*sys.argv[1:])
