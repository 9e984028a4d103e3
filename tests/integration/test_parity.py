"""Training equals serving: one listing, the same logit and tier, through training, the scorer and a predictor."""

import asyncio
import base64
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from moderation.decision import tier_of
from moderation.embedding import Embedder, embed_snapshot
from moderation.ensemble import Ensemble
from moderation.features import FEATURE_NAMES
from moderation.scoring import Scorer, ScoringItem
from moderation.signals import SignalTable, as_words
from moderation.snapshot import SnapshotRow
from serving.client import Answer, PredictorClient, Query
from serving.openinference import MODEL_NAME
from serving.process import ServingProcess, start_predictor
from tests.tiny_bundle import TinyRun
from tests.toy import POLICIES, ToyWorld, toy_world

# Every fixture here is costly: one test process takes them all.

NUM_LISTINGS = 500
TOLERANCE = 1e-3
OK, MISSING = 0, 1
_DISGUISES = (str.upper, lambda text: text.replace("o", "0"), lambda text: "\u200b".join(text))


@dataclass(frozen=True)
class Answers:
    """What one path says of the same listings."""

    signals_NPM: npt.NDArray[np.float64]
    is_ok_NPM: npt.NDArray[np.bool_]
    probability_NP: npt.NDArray[np.float64]

    def log_odds(self, ensemble: Ensemble) -> npt.NDArray[np.float64]:
        """Return the calibrated logit of each listing and policy."""
        status_NPM = np.where(self.is_ok_NPM, OK, MISSING).astype(np.int8)
        return ensemble.log_odds(self.signals_NPM, status_NPM)


@pytest.fixture(scope="module")
def world() -> ToyWorld:
    """Listings with every combination of modalities; some disguise their words, some have a broken image."""
    world = toy_world(NUM_LISTINGS, seed=77)
    world.rows = [_hardened(world, row, number) for number, row in enumerate(world.rows)]
    return world


def _hardened(world: ToyWorld, row: SnapshotRow, number: int) -> SnapshotRow:
    submission, listing = row.submission, row.submission.listing
    if number % 3 == 0:
        disguise = _DISGUISES[number % len(_DISGUISES)]
        listing = listing.model_copy(update={"title": disguise(listing.title)})
    digests = submission.image_digests
    if digests and number % 17 == 0:
        broken = world.blobs[digests[0]][:70]
        name = hashlib.sha256(broken).hexdigest()
        world.blobs[name] = broken
        digests = (name, *digests[1:])
    changed = submission.model_copy(update={"listing": listing, "image_digests": digests})
    return replace(row, submission=changed)


@pytest.fixture(scope="module")
def items(world: ToyWorld) -> list[ScoringItem]:
    return [
        ScoringItem(
            title=row.submission.listing.title,
            description=row.submission.listing.description,
            images=world.images(row),
            behaviour=row.behaviour_F,
        )
        for row in world.rows
    ]


@pytest.fixture(scope="module")
def trained(tiny: TinyRun, world: ToyWorld, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """The training path: snapshot, cached embeddings, heads in torch, the other members, the table of signals."""
    from moderation.boosting import BoostingModel
    from moderation.network import load_heads
    from moderation.ngram import NgramModel
    from moderation.profiles import PROFILES
    from moderation.training import Members, Training

    folder = tmp_path_factory.mktemp("trained")
    snapshot = world.snapshot(folder / "snapshot")
    ids = [row.submission.submission_id for row in world.rows]
    assert snapshot.column("submission_id").tolist() == ids
    rows = embed_snapshot(
        snapshot,
        world.blobs.__getitem__,
        Embedder.open(tiny.parts["image_tower"].parent, folder / "cache.sqlite"),
        folder=folder / "rows",
        num_views=2,
    )
    training = Training.of(snapshot, rows, PROFILES["tiny"].heads, seed=1)
    members = Members(
        load_heads(tiny.parts["heads"]),
        NgramModel.load(tiny.parts["ngram"]),
        BoostingModel.load(tiny.parts["behaviour"]),
    )
    names = [name for name in SignalTable.__dataclass_fields__ if name.endswith("_NP")]
    logits: dict[str, Any] = {
        name: np.full((len(ids), len(POLICIES)), np.nan) for name in names if name != "truth_NP"
    }
    training.score(members, np.arange(len(ids)), logits)
    table = SignalTable(
        policies=POLICIES,
        submission_id=as_words(ids),
        role=snapshot.role,
        fold=snapshot.fold.astype(np.int64),
        group=snapshot.group,
        weight=snapshot.weight,
        truth_NP=snapshot.truth_NP(),
        num_images=rows.num_images_N,
        **logits,
    )
    signals_NPM, status_NPM = table.natural()
    probability_NP = Ensemble.load(tiny.parts["ensemble"]).combine(signals_NPM, status_NPM)
    return Answers(np.nan_to_num(signals_NPM), status_NPM == OK, probability_NP)


@pytest.fixture(scope="module")
def predictor(tiny: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingProcess]:
    with start_predictor(
        tiny.bundle.folder, log_folder=tmp_path_factory.mktemp("logs"), is_unattested=True
    ) as running:
        yield running


def _assert_same(one: Answers, other: Answers, tiny: TinyRun) -> None:
    ensemble = Ensemble.load(tiny.parts["ensemble"])
    assert np.array_equal(one.is_ok_NPM, other.is_ok_NPM)
    assert np.abs(one.signals_NPM - other.signals_NPM)[one.is_ok_NPM].max() < TOLERANCE
    assert np.abs(one.log_odds(ensemble) - other.log_odds(ensemble)).max() < TOLERANCE
    assert _tiers(one, tiny) == _tiers(other, tiny)


def _tiers(answers: Answers, tiny: TinyRun) -> list[list[str]]:
    thresholds = Scorer(tiny.bundle).thresholds
    return [
        [tier_of(p, thresholds[policy]).label for p, policy in zip(row, POLICIES, strict=True)]
        for row in answers.probability_NP.tolist()
    ]


def test_listings_cover_every_combination(trained: Answers, tiny: TinyRun) -> None:
    patterns = Counter(map(tuple, trained.is_ok_NPM[:, 0].tolist()))
    assert len(patterns) == 8
    assert min(patterns.values()) >= 40
    tiers = Counter(tier for row in _tiers(trained, tiny) for tier in row)
    assert min(tiers[tier] for tier in ("allow", "tag", "review", "block")) >= 5


def test_scorer_equals_training(trained: Answers, tiny: TinyRun, items: list[ScoringItem]) -> None:
    scores = Scorer.load(tiny.bundle.folder, num_threads=2).score(items)
    served = Answers(scores.signals_NPM, scores.signal_status_NPM == OK, scores.probability_NP)
    _assert_same(trained, served, tiny)
    assert sum(map(len, scores.undecodable)) > 5


def test_predictor_equals_training_over_grpc(
    trained: Answers, tiny: TinyRun, items: list[ScoringItem], predictor: ServingProcess
) -> None:
    answers = asyncio.run(_ask_all(predictor.url, tiny.bundle.digest, items))
    served = Answers(
        np.stack([answer.signals_PM for answer in answers]),
        np.stack([answer.signal_status_PM for answer in answers]) == OK,
        np.stack([answer.probability_P for answer in answers]),
    )
    _assert_same(trained, served, tiny)


async def _ask_all(url: str, bundle: str, items: list[ScoringItem]) -> list[Answer]:
    client = PredictorClient(url)
    try:
        return [await client.ask(_query(item), bundle=bundle, timeout_s=30.0) for item in items]
    finally:
        await client.close()


def _query(item: ScoringItem) -> Query:
    values_F, status_F = _behaviour(item)
    images = [image for image in item.images if isinstance(image, bytes)]
    return Query(item.title, item.description, images, values_F, status_F)


def _behaviour(item: ScoringItem) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8]]:
    if item.behaviour is None:
        num_features = len(FEATURE_NAMES)
        return np.zeros(num_features, np.float32), np.full(num_features, MISSING, np.int8)
    status_F = np.where(np.isnan(item.behaviour), MISSING, OK).astype(np.int8)
    return np.nan_to_num(item.behaviour), status_F


def test_predictor_equals_training_over_rest(
    trained: Answers, tiny: TinyRun, items: list[ScoringItem], predictor: ServingProcess
) -> None:
    num = 48
    parts = [_query(item) for item in items[:num]]
    images = [base64.b64encode(image).decode() for part in parts for image in part.images]
    tensors = {
        "title": ("BYTES", [num], [part.title for part in parts]),
        "description": ("BYTES", [num], [part.description for part in parts]),
        "images": ("BYTES", [len(images)], images),
        "image_count": ("INT32", [num], [len(part.images) for part in parts]),
        "behaviour": (
            "FP32",
            [num, len(FEATURE_NAMES)],
            np.concatenate([part.behaviour_F for part in parts]).tolist(),
        ),
        "behaviour_status": (
            "INT8",
            [num, len(FEATURE_NAMES)],
            np.concatenate([part.status_F for part in parts]).tolist(),
        ),
    }
    body = {
        "inputs": [
            {"name": name, "datatype": kind, "shape": shape, "data": data}
            for name, (kind, shape, data) in tensors.items()
        ]
    }
    url = f"{predictor.http_url}/v2/models/{MODEL_NAME}/infer"
    response = httpx.post(url, json=body, timeout=60, trust_env=False).raise_for_status()
    outputs = {
        entry["name"]: np.array(entry["data"]).reshape(entry["shape"])
        for entry in response.json()["outputs"]
    }
    served = Answers(outputs["signals"], outputs["signal_status"] == OK, outputs["probability"])
    first = Answers(*(array[:num] for array in vars(trained).values()))
    _assert_same(first, served, tiny)
