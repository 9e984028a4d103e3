"""Attacked listings: the same change on guilty and innocent rows, read once, kept in the cache."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from components.prove.attacked import Chosen, attack_outcomes, attacked_listings, choose
from components.prove.frozen import FrozenRows, freeze, records_of
from components.prove.opponents import Opponents
from ledger.store import ContentStore
from moderation.attacks.registry import ATTACKS, SOURCE, Attack, Subject
from moderation.embedding_cache import EmbeddingCache
from moderation.errors import PermanentError
from moderation.gates.evidence import AttackOutcome
from moderation.image import decode
from moderation.release import Suite, load_release
from moderation.scoring import Scorer, ScoringItem
from tests.gate_world import CONTRACT
from tests.prove_world import ProveWorld, prove_world
from tests.tiny_bundle import TinyRun
from tests.toy import POLICIES

SUITE = Suite(violations_per_policy=6, innocents=8, white_box_items=2, white_box_steps=2)
WORDS = ("pistol", "replica")

ChangeOf = Callable[[Subject, float, np.random.Generator], Subject | None]


def _shout(subject: Subject, severity: float, rng: np.random.Generator) -> Subject | None:
    if not subject.title:
        return None
    return replace(subject, title=subject.title + "!" * int(rng.integers(1, 5)))


def _invert(subject: Subject, severity: float, rng: np.random.Generator) -> Subject | None:
    return replace(subject, images=tuple(ImageOps.invert(image) for image in subject.images))


def _cover(subject: Subject, severity: float, rng: np.random.Generator) -> Subject | None:
    """Put one image more in front, and the neighbour's words over all."""
    if subject.neighbour is None:
        return None
    front = Image.new("RGB", (40, 40), (9, 9, 9))
    return replace(subject, title=subject.neighbour.title, images=(front, *subject.images))


def _borrow(subject: Subject, severity: float, rng: np.random.Generator) -> Subject | None:
    if subject.neighbour is None or not subject.neighbour.images:
        return None
    return replace(subject, images=(*subject.images, subject.neighbour.images[0]))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny: TinyRun) -> ProveWorld:
    return prove_world(tmp_path_factory.mktemp("attacked"), tiny)


@pytest.fixture(scope="module")
def rows(world: ProveWorld) -> FrozenRows:
    read = ContentStore(world.home.content).get
    return freeze("golden", records_of(world.table, "test"), POLICIES, POLICIES, read)


@pytest.fixture
def opponents(world: ProveWorld, tmp_path: Path) -> Opponents:
    cache = EmbeddingCache(tmp_path / "embeddings.sqlite")
    return Opponents(Scorer(world.candidate), Scorer(world.champion), cache)


def _outcomes(
    rows: FrozenRows,
    chosen: Chosen,
    opponents: Opponents,
    progress: Callable[[int, int], None],
) -> list[AttackOutcome]:
    return attack_outcomes(attacked_listings(rows, chosen, WORDS), opponents, progress)


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let these be all attacks that there are."""

    def register(**changes: ChangeOf) -> None:
        for name in list(ATTACKS):
            monkeypatch.delitem(ATTACKS, name)
        for name, change in changes.items():
            monkeypatch.setitem(ATTACKS, name, Attack(name, "image", change, (1.0,)))

    return register


def _said(progress: list[tuple[int, int]]) -> Callable[[int, int], None]:
    return lambda done, total: progress.append((done, total))


def _direct(
    rows: FrozenRows, row: int, change: Callable[[ScoringItem], ScoringItem]
) -> ScoringItem:
    item = rows.items[row]
    images = [decode(bytes(image.load())) for image in item.images]  # type: ignore[arg-type]  # bytes in these rows
    return change(ScoringItem(item.title, item.description, images, item.behaviour))


def _probability(opponents: Opponents, items: Sequence[ScoringItem]) -> np.ndarray:
    return opponents.candidate.score(items).probability_NP


def test_rows_are_drawn_by_seed_and_look_alikes_come_first(rows: FrozenRows) -> None:
    chosen = choose(rows, SUITE, seed=3)
    for column in range(len(POLICIES)):
        assert (rows.truth_NP[chosen.violations, column] == 1).sum() >= 6
    assert len(chosen.innocents) == 8
    assert not (rows.truth_NP[chosen.innocents] == 1).any()
    again = choose(rows, SUITE, seed=3)
    assert np.array_equal(chosen.rows, again.rows)
    assert not np.array_equal(chosen.rows, choose(rows, SUITE, seed=4).rows)
    marked = [dict(record) for record in rows.records]
    for row in np.flatnonzero((rows.truth_NP == 0).all(axis=1))[:8]:
        marked[row]["attributes"] = '{"hard_negative": "spam"}'
    look_alikes = choose(replace(rows, records=tuple(marked)), SUITE, seed=3)
    assert all("spam" in marked[row]["attributes"] for row in look_alikes.innocents)


def test_text_attack_leaves_images_to_the_cache(
    rows: FrozenRows, opponents: Opponents, only: Callable[..., None]
) -> None:
    only(shout=_shout)
    chosen, told = choose(rows, SUITE, seed=3), list[tuple[int, int]]()
    opponents.answer(rows, load_release(CONTRACT).slices)
    known = opponents.cache.misses
    (outcome,) = _outcomes(rows, chosen, opponents, _said(told))
    with_title = [row for row in chosen.rows if rows.items[row].title]
    assert outcome.row_R.tolist() == with_title
    assert opponents.cache.misses - known == len({rows.items[row].title for row in with_title})
    assert outcome.champion_RP is not None
    assert outcome.candidate_RP.shape == outcome.champion_RP.shape == (len(with_title), 3)
    assert not np.array_equal(outcome.candidate_RP, outcome.champion_RP)
    assert told == [(1, 1)]


def test_image_attack_scores_the_changed_images(
    rows: FrozenRows, opponents: Opponents, only: Callable[..., None]
) -> None:
    only(invert=_invert)
    chosen = choose(rows, SUITE, seed=3)
    (outcome,) = _outcomes(rows, chosen, opponents, _said([]))
    assert outcome.row_R.tolist() == [row for row in chosen.rows if rows.items[row].images]
    expected = _probability(
        opponents,
        [
            _direct(
                rows,
                row,
                lambda item: replace(
                    item,
                    images=[ImageOps.invert(i) for i in item.images if isinstance(i, Image.Image)],
                ),
            )
            for row in outcome.row_R
        ],
    )
    assert np.abs(outcome.candidate_RP - expected).max() <= 1e-5


def test_second_candidate_pays_nothing_for_known_attacks(
    rows: FrozenRows, opponents: Opponents, world: ProveWorld, only: Callable[..., None]
) -> None:
    only(invert=_invert, cover=_cover, borrow=_borrow, shout=_shout)
    chosen = choose(rows, SUITE, seed=3)
    first = _outcomes(rows, chosen, opponents, _said([]))
    known = opponents.cache.misses
    again = _outcomes(rows, chosen, opponents, _said([]))
    assert opponents.cache.misses == known > 0
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.candidate_RP, other.candidate_RP)


def test_mended_attack_is_not_judged_by_old_embeddings(
    rows: FrozenRows, opponents: Opponents, only: Callable[..., None], tmp_path: Path
) -> None:
    def keys(source: Path) -> set[bytes]:
        listings = attacked_listings(rows, chosen, WORDS, source=source)
        return {image.key for _, item in listings["invert"] for image in item.images}

    only(invert=_invert)
    chosen = choose(rows, SUITE, seed=3)
    same, mended = (Path(shutil.copytree(SOURCE, tmp_path / name)) for name in ("same", "mended"))
    with (mended / "pixels.py").open("a") as file:
        file.write("# mended\n")
    assert keys(SOURCE) == keys(same)
    assert not keys(SOURCE) & keys(mended)
    before = attacked_listings(rows, chosen, WORDS, source=SOURCE)
    attack_outcomes(before, opponents, _said([]))
    known = opponents.cache.misses
    attack_outcomes(attacked_listings(rows, chosen, WORDS, source=mended), opponents, _said([]))
    assert opponents.cache.misses - known == len(keys(mended))


def test_what_attacks_make_is_forgotten_alone(
    rows: FrozenRows, opponents: Opponents, only: Callable[..., None]
) -> None:
    only(invert=_invert, cover=_cover, borrow=_borrow, shout=_shout)
    chosen, cache = choose(rows, SUITE, seed=3), opponents.cache
    opponents.answer(rows, load_release(CONTRACT).slices)
    submitted = cache.misses
    first = _outcomes(rows, chosen, opponents, _said([]))
    made = cache.misses - submitted
    assert cache.forget_made() == made > 0
    opponents.answer(rows, load_release(CONTRACT).slices)
    assert cache.misses == submitted + made, "what was submitted is still there"
    again = _outcomes(rows, chosen, opponents, _said([]))
    assert cache.misses == submitted + 2 * made
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.candidate_RP, other.candidate_RP)


def test_joint_attack_reads_the_neighbour(
    rows: FrozenRows, opponents: Opponents, only: Callable[..., None]
) -> None:
    only(cover=_cover, borrow=_borrow)
    chosen = choose(rows, SUITE, seed=3)
    covered, borrowed = _outcomes(rows, chosen, opponents, _said([]))
    assert covered.row_R.tolist() == chosen.rows.tolist()
    before = _probability(opponents, [_direct(rows, row, lambda i: i) for row in covered.row_R])
    assert not np.array_equal(covered.candidate_RP, before)
    assert 0 < len(borrowed.row_R) <= len(chosen.rows)


def test_attack_is_refused_when_it_breaks_limits_or_reads_pixels(
    rows: FrozenRows, opponents: Opponents, only: Callable[..., None]
) -> None:
    def flood(subject: Subject, severity: float, rng: np.random.Generator) -> Subject:
        return replace(subject, title="!" * 999)

    def peek(subject: Subject, severity: float, rng: np.random.Generator) -> Subject:
        is_real = any(image.size != (64, 64) for image in subject.images)
        return replace(subject, title="seen", images=() if is_real else _inverted(subject))

    chosen = choose(rows, SUITE, seed=3)
    only(flood=flood)
    with pytest.raises(PermanentError, match="breaks a listing's limits; mend the attack"):
        _outcomes(rows, chosen, opponents, _said([]))
    only(peek=peek)
    with pytest.raises(PermanentError, match="attack peek depends on pixels"):
        _outcomes(rows, chosen, opponents, _said([]))


def _inverted(subject: Subject) -> tuple[Image.Image, ...]:
    return tuple(ImageOps.invert(image) for image in subject.images)


def test_undecodable_image_stays_so_under_attack(
    rows: FrozenRows, opponents: Opponents, only: Callable[..., None]
) -> None:
    only(invert=_invert)
    broken = [
        replace(
            item,
            images=[
                replace(image, key=image.key[::-1], load=lambda: b"no image")
                for image in item.images
            ],
        )
        for item in rows.items
    ]
    chosen = choose(rows, SUITE, seed=3)
    (outcome,) = _outcomes(replace(rows, items=tuple(broken)), chosen, opponents, _said([]))
    bare = [replace(_direct(rows, row, lambda i: i), images=[b"no image"]) for row in outcome.row_R]
    assert np.abs(outcome.candidate_RP - _probability(opponents, bare)).max() <= 1e-5


def test_no_attack_is_no_evidence(
    rows: FrozenRows, opponents: Opponents, only: Callable[..., None]
) -> None:
    only()
    with pytest.raises(PermanentError, match="no attack is registered"):
        _outcomes(rows, choose(rows, SUITE, seed=3), opponents, _said([]))
