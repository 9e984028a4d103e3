"""White-box attacks: torch says what is served, small changes stay small, and unlimited ones bring recall to 0."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from moderation.attacks.gradients import TorchBundle
from moderation.attacks.registry import Subject
from moderation.attacks.token_swap import TokenSwapper, Words
from moderation.attacks.white_box import UNLIMITED, Target, WhiteBox
from moderation.bundle import Bundle
from moderation.decision import SIGNALS
from moderation.errors import BundleRejected, SettingsError
from moderation.image import central_square, decode
from moderation.profiles import PROFILES
from moderation.scoring import Scorer
from moderation.text import model_text
from moderation.towers import load_image_tower, load_text_tower
from tests.toy import POLICIES, toy_world

REVIEW = 0.4
Floats = npt.NDArray[np.float64]
_FUSION, _IMAGE, _TEXT = (SIGNALS.index(name) for name in ("fusion", "image", "text"))


@pytest.fixture(scope="module")
def scorer(tiny_bundle: Bundle) -> Scorer:
    return Scorer(tiny_bundle)


@pytest.fixture(scope="module")
def white_box(scorer: Scorer) -> WhiteBox:
    return WhiteBox(scorer, steps=20)


@pytest.fixture(scope="module")
def targets(scorer: Scorer) -> list[Target]:
    """Violations with an image or a text that the bundle flags before any attack, of every modality pattern."""
    world, found = toy_world(160, seed=9), []
    for row in world.rows:
        listing = row.submission.listing
        policies = tuple(c for c, policy in enumerate(POLICIES) if row.truth.get(policy))
        images = tuple(decode(data) for data in world.images(row))
        if policies and (images or listing.title):
            subject = Subject(listing.title, listing.description, images)
            found.append(Target(subject, policies, row.behaviour_F))
    scores = scorer.score([target.item(target.subject) for target in found])
    return [t for t, row_P in zip(found, scores.probability_NP, strict=True) if _is_held(t, row_P)]


def _is_held(target: Target, probability_P: Floats) -> bool:
    return bool((probability_P[list(target.policies)] >= REVIEW).all())


def _recall(scorer: Scorer, targets: list[Target], attacked: list[Subject]) -> float:
    items = [target.item(subject) for target, subject in zip(targets, attacked, strict=True)]
    probability_NP = scorer.score(items).probability_NP
    held = [
        probability_NP[row, column] >= REVIEW
        for row, target in enumerate(targets)
        for column in target.policies
    ]
    return float(np.mean(held))


def test_torch_equals_the_served_bundle(
    scorer: Scorer, tiny_bundle: Bundle, targets: list[Target]
) -> None:
    model = TorchBundle(tiny_bundle)
    items = [target.item(target.subject) for target in targets]
    served = scorer.score(items)
    for row, item in enumerate(items):
        with torch.no_grad():
            ids = model.encode(model_text(item.title, item.description))
            text = model.embed_tokens(ids) if ids else None
            images = [image for image in item.images if not isinstance(image, bytes)]
            vectors = model.embed_pixels(model.pixels(images)).unsqueeze(0) if images else None
            logits = model.logits(vectors, text)
        expected_PM = served.signals_NPM[row]
        assert np.abs(logits.fusion_BP[0].numpy() - expected_PM[:, _FUSION]).max() <= 1e-4
        assert np.abs(logits.image_BP[0].numpy() - expected_PM[:, _IMAGE]).max() <= 1e-4
        assert np.abs(logits.text_BP[0].numpy() - expected_PM[:, _TEXT]).max() <= 1e-4


def test_unlimited_attack_brings_recall_to_zero(
    white_box: WhiteBox, scorer: Scorer, targets: list[Target]
) -> None:
    chosen = targets[:30]
    assert {(bool(t.subject.images), bool(t.subject.title)) for t in chosen} == {
        (True, True),
        (True, False),
        (False, True),
    }
    assert any(target.behaviour is not None for target in chosen)
    assert _recall(scorer, chosen, [target.subject for target in chosen]) == 1
    attacked = [white_box.joint(target, UNLIMITED) for target in chosen]
    assert _recall(scorer, chosen, attacked) <= 0.05


def test_pgd_stays_within_its_reach_when_limited(
    white_box: WhiteBox, scorer: Scorer, targets: list[Target]
) -> None:
    chosen = [t for t in targets if t.subject.images and not t.subject.title][:6]
    attacked = [white_box.pgd(target, 1.0) for target in chosen]
    size = PROFILES["tiny"].image_size
    for target, subject in zip(chosen, attacked, strict=True):
        for before, after in zip(target.subject.images, subject.images, strict=True):
            assert (after.mode, after.size) == ("RGB", (size, size))
            moved = np.asarray(after, int) - np.asarray(central_square(before, size), int)
            assert 0 < np.abs(moved).max() <= 4
    assert _recall(scorer, chosen, attacked) < 1


def test_pgd_leaves_text_alone_and_swaps_leave_images_alone(
    white_box: WhiteBox, targets: list[Target]
) -> None:
    target = next(t for t in targets if t.subject.images and t.subject.title)
    by_pixels, by_words = (
        white_box.pgd(target, 1.0),
        white_box.token_swap(target, 1.0),
    )
    assert by_pixels.title == target.subject.title
    assert by_pixels.description == target.subject.description
    assert by_words.images == target.subject.images


def test_attack_leaves_the_listing_when_it_cannot_change_it(white_box: WhiteBox) -> None:
    text_only = Target(Subject("pistol ammo", "", ()), (0,))
    assert white_box.pgd(text_only, 1.0) is text_only.subject
    assert white_box.joint(text_only, UNLIMITED) != text_only.subject
    image_only = Target(Subject("", "", (Image.new("RGB", (80, 60), "red"),)), (0,))
    assert white_box.token_swap(image_only, 1.0) is image_only.subject
    assert white_box.joint(image_only, UNLIMITED) != image_only.subject
    for empty in (Subject("", ""), Subject("\u200b \u200b", "")):
        assert white_box.joint(Target(empty, (0,)), UNLIMITED) is empty


def test_token_swap_changes_few_words_when_limited(
    white_box: WhiteBox, scorer: Scorer, targets: list[Target]
) -> None:
    chosen = [t for t in targets if t.subject.title and not t.subject.images][:8]
    attacked = [white_box.token_swap(target, 1.0) for target in chosen]
    for target, subject in zip(chosen, attacked, strict=True):
        before = [*target.subject.title.split(), *target.subject.description.split()]
        after = [*subject.title.split(), *subject.description.split()]
        assert len(before) - 1 <= len(after) <= len(before)
        kept = sum(word in after for word in before)
        assert kept >= len(before) - max(1, int(0.15 * len(before)))
    assert attacked != [target.subject for target in chosen]
    assert _recall(scorer, chosen, attacked) < 1


def test_swapped_words_come_back_as_tokens(
    white_box: WhiteBox, scorer: Scorer, targets: list[Target]
) -> None:
    model = TorchBundle(scorer.bundle)
    words = TokenSwapper(model, scorer.ngram).vocabulary
    token_of = {w: model.tokenizer.encode(w, add_special_tokens=False).ids[0] for w in words}
    assert len(set(token_of.values())) == len(words) > 100
    num_fresh = 0
    for target in [t for t in targets if t.subject.title][:8]:
        subject = white_box.token_swap(target, UNLIMITED)
        before = {*target.subject.title.split(), *target.subject.description.split()}
        fresh = {*subject.title.split(), *subject.description.split()} - before
        tokens = model.encode(model_text(subject.title, subject.description))
        assert {token_of[word] for word in fresh} <= set(tokens)
        num_fresh += len(fresh)
    assert num_fresh


def test_attack_is_the_same_when_repeated(white_box: WhiteBox, targets: list[Target]) -> None:
    target = next(t for t in targets if t.subject.images and t.subject.title)
    first, second = (white_box.joint(target, 2.0) for _ in range(2))
    assert (first.title, first.description) == (second.title, second.description)
    for one, other in zip(first.images, second.images, strict=True):
        assert one.tobytes() == other.tobytes()


def test_attack_is_refused_when_severity_is_not_positive(white_box: WhiteBox) -> None:
    target = Target(Subject("pistol ammo", ""), (0,))
    for run in (white_box.pgd, white_box.token_swap, white_box.joint):
        for severity in (0.0, -1.0, float("nan")):
            with pytest.raises(ValueError, match="must be positive"):
                run(target, severity)


def test_target_is_refused_when_it_violates_nothing() -> None:
    with pytest.raises(ValueError, match="at least one policy"):
        Target(Subject("a chair", "", ()), ())


def test_text_is_not_submittable_when_it_breaks_a_limit() -> None:
    long = Words.of("a " * 150, "b")
    assert long.is_submittable
    assert not long.swapped([0], ["x" * 40]).is_submittable
    assert not Words.of("one", "").swapped([0], [""]).is_submittable


def test_weights_are_refused_when_they_are_of_another_tower(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    tiny = PROFILES["tiny"]
    wrong = tmp_path / "weights.safetensors"
    state = load_file(tiny_bundle.folder / "text_tower" / "weights.safetensors")
    state.pop(next(iter(state)))
    save_file(state, wrong)
    with pytest.raises(BundleRejected, match="no weights of bert"):
        load_text_tower(tiny.text_tower, wrong)
    with pytest.raises(BundleRejected, match="no weights of test_resnet"):
        load_image_tower(tiny.image_tower, wrong)
    with pytest.raises(BundleRejected, match="no weights of test_resnet"):
        load_image_tower(tiny.image_tower, tmp_path / "nothing.safetensors")


def test_bundle_is_refused_when_its_profile_is_unknown(tiny_bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bundle.folder, tmp_path / "bundle"))
    manifest = tiny_bundle.manifest.model_copy(update={"profile": "huge"})
    with pytest.raises(SettingsError, match="no such profile: 'huge'"):
        TorchBundle(replace(tiny_bundle, folder=folder, manifest=manifest))
