"""A real bundle of the tiny profile, trained on the toy marketplace in seconds."""

import fcntl
import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moderation.bundle import Bundle, Description, Inputs, build
from moderation.decision import SIGNALS
from moderation.embedded_rows import EmbeddedRows
from moderation.ensemble import Ensemble, PatternFit
from moderation.signals import PATTERNS, members_of
from moderation.snapshot import Snapshot
from moderation.thresholds import SolvedThresholds, TierEvidence, save_thresholds
from tests.toy import POLICIES, ToyWorld, toy_world

SEED = 11
_NUM_ROWS = 240
_ROOT = Path(__file__).parents[1]
_NUM_STEPS = 60
_NOT_TRAINING = frozenset(
    "bundle bundle_checks bundle_files manifest attestation scoring activity calibration precision training "
    "tuning conftest".split()
)


@dataclass(frozen=True)
class TinyRun:
    """What a training run leaves behind, and the bundle made of it."""

    bundle: Bundle
    parts: dict[str, Path]
    description: Description


def tiny_run(cache: Path) -> TinyRun:
    """Return the tiny bundle below `cache`, trained once for each state of the code that trains it."""
    home = cache / _code_digest(_NOT_TRAINING)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several test processes one trains, the others wait
        if not home.exists():
            scratch = Path(tempfile.mkdtemp(prefix=".training-", dir=cache))
            _train(toy_world(_NUM_ROWS, SEED), scratch)
            scratch.rename(home)
    parts = {
        "image_tower": home / "image_tower",
        "text_tower": home / "text_tower",
        "heads": home / "heads",
        "ngram": home / "ngram",
        "behaviour": home / "behaviour",
        "ensemble": home / "ensemble.json",
        "thresholds": home / "thresholds.json",
    }
    snapshot = Snapshot.open(home / "snapshot")
    inputs = Inputs(snapshot=snapshot.digest, code="toy", config="toy", seed=SEED)
    description = Description(policies=POLICIES, profile="tiny", inputs=inputs)
    bundle = build(home / f"bundle-{_code_digest()}", parts, description)
    return TinyRun(bundle, parts, description)


def _code_digest(left_out: frozenset[str] = frozenset()) -> str:
    total = hashlib.sha256()
    for path in sorted([*(_ROOT / "moderation").glob("*.py"), *(_ROOT / "tests").glob("*.py")]):
        if path.stem not in left_out:
            total.update(path.read_bytes())
    return total.hexdigest()[:16]


def _train(world: ToyWorld, home: Path) -> None:
    """Write every part of a bundle to `home`; torch and the trainers are imported here alone."""
    from moderation.boosting import fit_boosting
    from moderation.embedding import Embedder, embed_snapshot
    from moderation.export import export_towers
    from moderation.ngram import fit_ngram
    from moderation.profiles import PROFILES
    from moderation.text import ngram_texts

    snapshot = world.snapshot(home / "snapshot")
    truth_NP, weight_N = snapshot.truth_NP(), snapshot.weight
    towers = export_towers(PROFILES["tiny"], home / "towers")
    for tower in ("image_tower", "text_tower"):
        shutil.copytree(towers.folder / tower, home / tower)
    rows = embed_snapshot(
        snapshot,
        world.blobs.__getitem__,
        Embedder.open(towers.folder, home / "embeddings.sqlite"),
        folder=home / "rows",
        num_views=1,
    )
    _train_heads(rows, truth_NP, home / "heads")
    texts = [
        ngram_texts(row["title"], row["description"])
        for batch in snapshot.batches(["title", "description"])
        for row in batch.to_pylist()
    ]
    fit_ngram(texts, truth_NP, weight_N, seed=SEED).save(home / "ngram")
    boosting = fit_boosting(
        snapshot.behaviour_NF(), truth_NP, weight_N, snapshot.group, seed=SEED, num_threads=1
    )
    boosting.save(home / "behaviour", POLICIES)
    mean_ensemble().save(home / "ensemble.json")
    save_thresholds(home / "thresholds.json", [_solved(policy) for policy in POLICIES])


def _solved(policy: str) -> SolvedThresholds:
    """Return tiers as if a sample had certified three of them."""
    opened = {"tag": 0.2, "review": 0.4, "block": 0.8, "suspend": None}
    evidence = {
        tier: TierEvidence(
            status="closed" if limit is None else "certified",
            threshold=limit,
            bound=0.5,
            lower_bound=0.5,
            precision=0.6,
            flags=100,
            errors=40,
            effective_n=100.0,
            share=0.1,
            needed=None,
            reason="made for tests",
        )
        for tier, limit in opened.items()
    }
    return SolvedThresholds(policy, 0.95, evidence)


def _train_heads(rows: EmbeddedRows, truth_NP: npt.NDArray[np.int8], folder: Path) -> None:
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    from moderation.network import ListingHeads, export_heads
    from moderation.profiles import PROFILES

    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    config = PROFILES["tiny"].heads
    heads = ListingHeads(rows.image_dim, rows.text_dim, truth_NP.shape[1], config)
    heads.standardise(torch.tensor(rows.images_ED), torch.tensor(rows.texts_ED))
    batch = rows.batch(np.arange(rows.num_rows))
    inputs = [torch.from_numpy(array) for array in vars(batch).values()]
    truth_BP = torch.from_numpy(truth_NP).float()
    optimiser = torch.optim.AdamW(heads.parameters(), lr=0.02)
    for _ in range(_NUM_STEPS):
        logits_3BP = torch.stack(heads(*inputs)[:3])
        loss = binary_cross_entropy_with_logits(logits_3BP, truth_BP.expand_as(logits_3BP))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimiser.step()
    export_heads(heads.eval(), config, folder)


def mean_ensemble() -> Ensemble:
    """Return an ensemble that averages whatever members answer."""
    fits = {
        bits: tuple(
            PatternFit(
                weights=tuple(
                    (member in members_of(bits)) / len(members_of(bits))
                    for member in range(len(SIGNALS))
                ),
                intercept=0.1 * bits,
                slope=1.5,
                offset=-0.25,
                origin="fitted",
                num_rows=_NUM_ROWS,
                num_positives=_NUM_ROWS // 4,
            )
            for _ in POLICIES
        )
        for bits in PATTERNS
    }
    return Ensemble(POLICIES, (0.25,) * len(POLICIES), fits)
