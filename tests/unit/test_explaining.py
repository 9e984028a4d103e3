"""Explanations hold: sums are complete, heat lies where the evidence was planted, and other weights give other maps."""

import base64
import io
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageDraw
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from moderation.bundle import Bundle
from moderation.decision import SIGNALS
from moderation.errors import InvalidListing
from moderation.explaining.heat import heat_maps
from moderation.explaining.listing import Explainer
from moderation.explaining.places import Places
from moderation.explanation import Explanation, TextPart
from moderation.features import FEATURE_NAMES
from moderation.ngram_features import hash_features, placed_features
from moderation.scoring import Scorer, ScoringItem
from moderation.text import ngram_texts
from tests.toy import _COLOURS, POLICIES

TITLE, DESCRIPTION = "Old PÍSTOL and lamp", "wh\u200batsapp me, nice g4rden chair"
BEHAVIOUR_F = np.where(np.arange(len(FEATURE_NAMES)) == 3, np.nan, 2.0).astype(np.float32)


@pytest.fixture(scope="module")
def scorer(tiny_bundle: Bundle) -> Scorer:
    return Scorer(tiny_bundle)


@pytest.fixture(scope="module")
def explainer(scorer: Scorer) -> Explainer:
    return Explainer(scorer)


def _planted(quadrant: int, colour: tuple[int, ...], seed: int = 3) -> Image.Image:
    """Return noise with a disc in one quarter of the image."""
    noise = np.random.default_rng(seed).integers(90, 150, (24, 24, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((64, 64))
    left, top = 32 * (quadrant % 2) + 3, 32 * (quadrant // 2) + 3
    ImageDraw.Draw(image).ellipse((left, top, left + 26, top + 26), fill=colour)
    return image


def _item(**changes: Any) -> ScoringItem:
    whole = ScoringItem(TITLE, DESCRIPTION, (_planted(0, _COLOURS[0]),), BEHAVIOUR_F)
    return replace(whole, **changes)


def _whole(part: TextPart) -> float:
    return sum(piece.score for piece in part.pieces) + part.rest


@pytest.mark.parametrize(
    "changes",
    [{}, {"images": ()}, {"title": "", "description": ""}, {"behaviour": None}],
    ids=["all", "no image", "no text", "no behaviour"],
)
def test_shares_sum_to_the_served_log_odds(
    scorer: Scorer, explainer: Explainer, changes: dict[str, Any]
) -> None:
    item = _item(**changes)
    probability_P = scorer.score([item]).probability_NP[0]
    for p, policy in enumerate(POLICIES):
        found = explainer.explain(item, policy)
        odds = float(np.log(probability_P[p] / (1 - probability_P[p])))
        assert found.base + sum(one.share for one in found.members) == pytest.approx(odds, abs=1e-5)
        assert found.log_odds == pytest.approx(odds, abs=1e-5)
        assert [one.member for one in found.members] == list(SIGNALS)


@pytest.mark.parametrize("images", [(), (_planted(1, _COLOURS[2]),)], ids=["text", "both"])
def test_words_sum_to_the_difference_of_the_log_odds(
    explainer: Explainer, images: tuple[Image.Image, ...]
) -> None:
    for policy in POLICIES:
        part = explainer.explain(_item(images=images), policy).text
        assert part is not None
        assert abs(part.gap) <= 1e-3 * max(1.0, abs(part.total))
        assert _whole(part) + part.gap == pytest.approx(part.total, abs=1e-6)


def test_few_steps_leave_a_gap_that_is_told(scorer: Scorer) -> None:
    one = Explainer(scorer, steps=1).explain(_item(images=()), POLICIES[0]).text
    many = Explainer(scorer, steps=64).explain(_item(images=()), POLICIES[0]).text
    assert one is not None
    assert many is not None
    assert abs(one.gap) > 10 * abs(many.gap)


def test_the_telling_word_leads_with_its_place_in_the_original(explainer: Explainer) -> None:
    found = explainer.explain(_item(images=(), behaviour=None), POLICIES[0])
    for part in (found.text, found.ngram):
        assert part is not None
        first = max(part.pieces, key=lambda piece: piece.score)
        assert (first.field, first.text) == ("title", "PÍSTOL")
        assert TITLE[first.begin : first.end] == first.text
        assert first.score > 0
        originals = {"title": TITLE, "description": DESCRIPTION}
        texts = {piece.text for piece in part.pieces}
        assert {"wh\u200batsapp", "g4rden"} <= texts, "hidden characters and leetspeak as they came"
        for piece in part.pieces:
            assert originals[piece.field][piece.begin : piece.end] == piece.text


def test_ngram_pieces_sum_to_what_their_features_weigh(
    scorer: Scorer, explainer: Explainer
) -> None:
    read = ngram_texts(TITLE, DESCRIPTION)
    placed = {
        int(bucket)
        for form, of_words in ((read.normalised, False), (read.folded, False), (read.folded, True))
        for bucket in placed_features(form, of_words=of_words).bucket_G
    }
    row = hash_features([read])
    has_place = np.isin(row.indices, list(placed))
    assert 0 < has_place.sum() < len(has_place), "signs have no place"
    for p, policy in enumerate(POLICIES):
        part = explainer.explain(_item(), policy).ngram
        assert part is not None
        weight = scorer.ngram.weights_of(row.indices.astype(np.int64), p)
        expected = float((weight * row.data)[has_place].sum())
        assert sum(piece.score for piece in part.pieces) == pytest.approx(expected, abs=1e-5)
        assert _whole(part) == pytest.approx(float(scorer.ngram.logits([read])[0, p]))


def test_features_sum_to_the_trees_logit(scorer: Scorer, explainer: Explainer) -> None:
    logit_P = scorer.boosting.logits(BEHAVIOUR_F[None])[0]
    for p, policy in enumerate(POLICIES):
        part = explainer.explain(_item(), policy).behaviour
        assert part is not None
        total = part.base + sum(one.score for one in part.features)
        assert total == pytest.approx(float(logit_P[p]), abs=1e-6)
        values = {one.feature: one.value for one in part.features}
        assert values[FEATURE_NAMES[3]] is None


def test_heat_lies_on_the_planted_disc(explainer: Explainer) -> None:
    for policy, colour in zip(POLICIES, _COLOURS, strict=True):
        hits = 0
        for number in range(8):
            image = _planted(number % 4, colour, seed=number)
            found = explainer.explain(ScoringItem(images=(image,)), policy)
            grid = np.array(found.heat[0].grid)
            hits += int(grid.argmax()) == number % 4 and grid.max() == 1.0
        assert hits >= 7, policy


def test_each_image_has_its_own_heat(explainer: Explainer) -> None:
    plain, telling = _planted(0, (120, 120, 120)), _planted(3, _COLOURS[0])
    found = explainer.explain(ScoringItem(images=(plain, b"broken", telling)), POLICIES[0])
    assert [one.image for one in found.heat] == [0, 2]
    assert found.heat[1].strength > found.heat[0].strength
    overlay = Image.open(io.BytesIO(_bytes(found)))
    assert overlay.size == (320, 320)
    assert found.heat[1].box == (0.0, 0.0, 64.0, 64.0)


def _bytes(found: Explanation) -> bytes:
    return base64.b64decode(found.heat[0].overlay_png)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_constant_image_gives_numbers(explainer: Explainer, level: int) -> None:
    image = Image.new("RGB", (64, 64), (level, level, level))
    for policy in POLICIES:
        [heat] = explainer.explain(ScoringItem(images=(image,)), policy).heat
        grid = np.array(heat.grid)
        assert np.isfinite(grid).all()
        assert grid.min() >= 0
        assert grid.max() in (0.0, 1.0)


def test_other_weights_give_another_map(scorer: Scorer) -> None:
    """After Adebayo et al. 2018: a map that outlives its weights explains the input alone."""
    own, other = Explainer(scorer), Explainer(scorer)
    torch.manual_seed(5)
    for module in (other.model.image_tower, other.model.text_tower, other.model.heads):
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    maps, words = [], []
    for number in range(8):
        item = _item(images=(_planted(number % 4, _COLOURS[0], seed=number),))
        first, second = (one.explain(item, POLICIES[0]) for one in (own, other))
        maps.append(np.argmax(first.heat[0].grid) == np.argmax(second.heat[0].grid))
        assert first.text is not None
        assert second.text is not None
        ranks = [_by_place(part) for part in (first.text, second.text)]
        words.append(np.corrcoef(ranks[0], ranks[1])[0, 1])
    assert np.mean(maps) < 0.7
    assert abs(np.mean(words)) < 0.7


def _by_place(part: TextPart) -> npt.NDArray[np.float64]:
    ordered = sorted(part.pieces, key=lambda piece: (piece.field, piece.begin))
    return np.array([piece.score for piece in ordered])


@dataclass
class _OneScore:
    """The score of a network alone, in the place of the ensemble's log-odds."""

    network: VisionTransformer
    head: nn.Linear

    @property
    def model(self) -> Any:
        return SimpleNamespace(
            image_tower=SimpleNamespace(model=self.network),
            pixels=lambda images: images,
            embed_pixels=lambda pixels: self.network(pixels),
        )

    def odds(self, images_BKD: Tensor, text_BD: Tensor | None) -> Tensor:
        logits: Tensor = self.head(images_BKD[0])[:, 0]
        return logits


def _patches(rng: np.random.Generator, number: int) -> tuple[Tensor, Tensor, npt.NDArray[np.int64]]:
    """Return noise of 4 x 4 patches, every second image with one of another colour, and which one."""
    images = rng.integers(90, 150, (number, 64, 64, 3)).astype(np.float32)
    place_N = rng.integers(0, 16, number)
    for n in range(1, number, 2):
        top, left = 16 * (place_N[n] // 4), 16 * (place_N[n] % 4)
        images[n, top : top + 16, left : left + 16] = (200, 30, 30)
    truth = torch.arange(number) % 2
    return torch.tensor(images).permute(0, 3, 1, 2) / 127.5 - 1, truth.float(), place_N


def _hits(pool: str, seed: int) -> float:
    """Return the share of planted patches that a small transformer's heat is hottest on; 1 in 16 by chance."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    sizes: dict[str, Any] = {
        "global_pool": pool,
        "num_classes": 0,
        "img_size": 64,
        "patch_size": 16,
        "embed_dim": 48,
        "depth": 2,
        "num_heads": 3,
    }
    network = VisionTransformer(**sizes)
    score = _OneScore(network, nn.Linear(48, 1))
    optimiser = torch.optim.AdamW([*network.parameters(), *score.head.parameters()], lr=1e-3)
    for _ in range(60):
        images, truth_B, _ = _patches(rng, 32)
        logits_B = score.head(network(images))[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(logits_B, truth_B)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimiser.step()
    network.eval()
    images, _, place_N = _patches(rng, 40)
    maps = heat_maps(score, images, None)  # type: ignore[arg-type]  # of their shape
    assert maps[0].shape == (4, 4)
    return float(np.mean([maps[n].argmax() == place_N[n] for n in range(1, 40, 2)]))


# Through a class token alone the map is less sure: docs/limits.md has the figures of longer training.
@pytest.mark.parametrize(("pool", "least"), [("token", 0.6), ("avg", 0.9)])
def test_a_transformers_heat_lies_on_the_planted_patch(pool: str, least: float) -> None:
    assert np.mean([_hits(pool, seed) for seed in (1, 2, 3)]) >= least


def test_an_unknown_policy_is_refused(explainer: Explainer) -> None:
    with pytest.raises(InvalidListing, match="send one of"):
        explainer.explain(_item(), "astrology")


def test_a_listing_without_anything_has_members_alone(explainer: Explainer) -> None:
    found = explainer.explain(ScoringItem(), POLICIES[0])
    assert (found.heat, found.text, found.ngram, found.behaviour) == ((), None, None, None)
    assert {one.logit for one in found.members} == {None}
    assert found.log_odds == found.base


@pytest.mark.parametrize(
    ("title", "description"),
    [("", "only this"), ("only this", ""), ("a", "b"), (" \u200b ", "x y")],
)
def test_places_survive_empty_parts(title: str, description: str) -> None:
    for places in (
        Places.of_tower(title, description),
        Places.of_ngrams(title, description, is_folded=False),
        Places.of_ngrams(title, description, is_folded=True),
    ):
        words, begin = [], 0
        for word in places.reading.replace(".", " ").split():
            start = places.reading.index(word, begin)
            begin = start + len(word)
            words.append((start, begin, 1.0))
        texts = [piece.text for piece in places.pieces(words)]
        assert texts == f"{title} {description}".replace("\u200b", "").split()
