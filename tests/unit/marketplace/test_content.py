"""Scenes, words, tricks and photos: what a listing is made of."""

import io
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from marketplace.camera import PLAIN, photograph
from marketplace.config import LANGUAGES, POLICIES, Drift, DriftKind, WorldConfig
from marketplace.evasion import TRICKS, Evasion, fashion, hide
from marketplace.history import default_rule, simulate
from marketplace.outcomes import WorldEvent
from marketplace.scenes import (
    LOOKALIKES,
    SCENES,
    VIOLATIONS,
    Cell,
    Photo,
    Words,
    needs_both,
    oracle_probability,
)
from marketplace.sellers import Asset
from marketplace.wording import Topic, compose, live_template, skeleton
from marketplace.world import World
from moderation.listing import Submission
from moderation.text import normalise

CONFIG = WorldConfig.default()
SCENE = {scene.name: scene for scene in SCENES}


class Listed:
    """A sink that keeps submissions and images."""

    def __init__(self) -> None:
        self.submissions: list[Submission] = []
        self.images: list[list[bytes]] = []

    def on_submission(self, submission: Submission, images: list[bytes]) -> None:
        self.submissions.append(submission)
        self.images.append(images)

    def on_event(self, event: WorldEvent) -> None:
        pass


def listed(config: WorldConfig) -> Listed:
    sink = Listed()
    simulate(World(config), sink, default_rule())
    return sink


def with_drift(kind: DriftKind, strength: float = 1.0) -> WorldConfig:
    config = WorldConfig(days=3, violations_per_day=6, keep_ordinary=1 / 500)
    return replace(config, drifts=(Drift(kind, config.start, strength=strength),))


@pytest.mark.parametrize("scenes", [VIOLATIONS, LOOKALIKES])
def test_shares_of_scenes_add_up_to_one(scenes: tuple[object, ...]) -> None:
    assert sum(scene.share for scene in SCENES if scene in scenes) == pytest.approx(1)


def test_cell_survives_its_code() -> None:
    for scene in SCENES:
        for policy in (None, *POLICIES):
            assert Cell.from_code(Cell(scene, policy).code) == Cell(scene, policy)


def test_same_photo_is_allowed_and_banned_by_its_words() -> None:
    for kind, is_photo in ((Photo.SUSPECT, True), (Words.SUSPECT, False)):
        found = {
            scene.violates for scene in SCENES if (scene.photo if is_photo else scene.words) == kind
        }
        assert found == {True, False}


def test_needs_both_names_only_what_one_side_hides() -> None:
    assert [scene.name for scene in SCENES if needs_both(scene, CONFIG)] == ["needs_both"]


def test_oracle_is_unsure_only_where_scenes_meet() -> None:
    sure = oracle_probability(Cell(SCENE["both_tell"], "spam"), CONFIG, "spam")
    unsure = oracle_probability(Cell(SCENE["undecidable"], "spam"), CONFIG, "spam")
    other = oracle_probability(Cell(SCENE["both_tell"], "spam"), CONFIG, "weapons")
    assert (sure, other) == (1.0, 0.0)
    assert 0.2 < unsure < 0.8


@pytest.mark.parametrize("trick", TRICKS)
def test_trick_changes_words_and_is_undone_if_invisible(trick: Evasion) -> None:
    rng = np.random.default_rng(1)
    text = "Selling glock pistol with silencer"
    hidden = hide(text, trick, rng)
    assert (hidden == text) == (trick is Evasion.NONE)
    if trick in (Evasion.ZERO_WIDTH, Evasion.HOMOGLYPH):
        assert "silencer" in normalise(hidden).folded


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("new", [0.0, 0.6])
def test_fashion_is_a_distribution(progress: float, new: float) -> None:
    chances = fashion(progress, new)
    assert chances.min() >= 0
    assert chances.sum() == pytest.approx(1)
    assert chances[TRICKS.index(Evasion.VOWELS)] == pytest.approx(new)


def test_evasion_grows_over_the_life_of_a_world() -> None:
    none = TRICKS.index(Evasion.NONE)
    assert fashion(1.0, 0.0)[none] < fashion(0.0, 0.0)[none]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_scene_finds_words_in_every_language(language: str) -> None:
    rng = np.random.default_rng(2)
    template = live_template(7, language, 0, 0.5)
    topics = {"weapons": "gun", "counterfeit": "watch", "spam": "card"}
    for scene in SCENES:
        for policy, subject in topics.items():
            cell = Cell(scene, None if scene.name.startswith("ordinary") else policy)
            topic = Topic(subject if cell.policy else "lamp", 1)
            title, description = compose(
                cell, topic, template, language=language, trick=Evasion.NONE, rng=rng
            )
            assert title
            assert description
            assert "{" not in title + description


def test_skeleton_hides_names_and_numbers() -> None:
    first = skeleton("Selling cordless drill, barely used", "en")
    second = skeleton("Selling 2 glock pistol, barely used", "en")
    assert first == second == "selling _ barely used"


def test_photo_is_the_same_for_the_same_generator() -> None:
    asset = Asset("p-1", "drill", 1, 0, 5)
    first, second = (photograph(asset, np.random.default_rng(3)) for _ in range(2))
    assert first == second
    assert first != photograph(asset, np.random.default_rng(4))


@pytest.mark.parametrize("kind", sorted(PLAIN))
def test_photo_is_a_small_jpeg(kind: str) -> None:
    data = photograph(Asset("p-1", kind, 3, 0, 5), np.random.default_rng(0), overlay="TEXT")
    image = Image.open(io.BytesIO(data))
    assert image.format == "JPEG"
    assert 160 <= image.width == image.height <= 208
    assert 1_000 < len(data) < 25_000


def test_new_evasion_drops_vowels() -> None:
    drifted = listed(with_drift(DriftKind.NEW_EVASION))
    slices = Counter(s.attributes.get("evasion") for s in drifted.submissions)
    assert slices["vowels"] > 0
    assert slices["leet"] == 0


def test_schema_fault_loses_category_and_region() -> None:
    drifted = listed(with_drift(DriftKind.SCHEMA_FAULT))
    assert {s.listing.category for s in drifted.submissions} == {"unknown"}
    assert {s.listing.region for s in drifted.submissions} == {None}


def test_broken_modality_sends_one_grey_photo() -> None:
    drifted = listed(with_drift(DriftKind.MODALITY_BROKEN))
    assert len({image for images in drifted.images for image in images}) == 1


def test_camera_change_compresses_photos() -> None:
    asset = Asset("p-1", "lamp", 0, 0, 5)
    usual, worn = (
        np.mean([_blue(asset, seed, worn=worn) for seed in range(8)]) for worn in (False, True)
    )
    assert worn < 0.9 * usual


def test_prior_shift_brings_more_harm() -> None:
    config = WorldConfig(days=5, violations_per_day=5, keep_ordinary=1 / 500)
    shifted = replace(config, drifts=(Drift(DriftKind.PRIOR_SHIFT, config.start, strength=4.0),))
    usual, more = (
        sum("evasion" in s.attributes for s in listed(one).submissions) for one in (config, shifted)
    )
    assert more > 2 * usual


def test_drift_ends_when_told() -> None:
    config = with_drift(DriftKind.SCHEMA_FAULT)
    drift = replace(config.drifts[0], end=config.start)
    assert not drift.holds(config.start)


def _blue(asset: Asset, seed: int, *, worn: bool) -> float:
    data = photograph(asset, np.random.default_rng(seed), worn=worn)
    return float(np.asarray(Image.open(io.BytesIO(data)), float)[..., 2].mean())
