"""Real toy listings that engines are compared on, with the tiny bundle's own truth."""

import functools
import tempfile
from pathlib import Path

import numpy as np

from components.prove.frozen import freeze
from moderation.gates.evidence import digest_rows
from moderation.gates.parity import ParityRows
from moderation.release import ReleaseContract, load_release
from tests.toy import POLICIES, toy_world

_ROOT = Path(__file__).parents[1]
NUM_ROWS = 450
RELEASE_FILE = _ROOT / "policies" / "release.yaml"


@functools.lru_cache(maxsize=1)
def toy_parity_rows() -> ParityRows:
    """Return listings that the tiny bundle has not seen, as many as the contract takes at least."""
    world = toy_world(NUM_ROWS, seed=77)
    with tempfile.TemporaryDirectory() as scratch:
        snapshot = world.snapshot(Path(scratch, "snapshot"))
        records = [record for batch in snapshot.batches() for record in batch.to_pylist()]
        rows = freeze("parity", records, snapshot.policy_ids, POLICIES, world.blobs.__getitem__)
    weight_N = rows.column("weight", np.float64)
    return ParityRows(
        items=rows.items,
        truth_NP=rows.truth_NP,
        weight_N=weight_N,
        group_N=rows.column("group", np.int64),
        digest=digest_rows(rows.words("submission_id"), rows.truth_NP, weight_N),
    )


@functools.lru_cache(maxsize=1)
def contract() -> ReleaseContract:
    """Return the release contract of the repository."""
    return load_release(RELEASE_FILE)
