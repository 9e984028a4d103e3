"""The scorer: whatever a listing lacks has a status, and nothing depends on the batch."""

import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from moderation.bundle import Bundle
from moderation.decision import SIGNALS
from moderation.errors import BundleRejected, InvalidListing
from moderation.features import FEATURE_NAMES
from moderation.scoring import Scorer, Scores, ScoringItem
from tests.toy import POLICIES, toy_image, toy_world

OK, MISSING, ERROR = 0, 1, 2
F = len(FEATURE_NAMES)
IMAGE = toy_image(np.random.default_rng(3), (200, 30, 30))
CORRUPT = IMAGE[:60]
BEHAVIOUR = np.arange(F, dtype=np.float32)


@pytest.fixture(scope="module")
def scorer(tiny_bundle: Bundle) -> Scorer:
    return Scorer.load(tiny_bundle.folder, num_threads=2)


@pytest.fixture(scope="module")
def items() -> list[ScoringItem]:
    world = toy_world(40, seed=21)
    return [
        ScoringItem(
            title=row.submission.listing.title,
            description=row.submission.listing.description,
            images=world.images(row),
            behaviour=row.behaviour_F,
        )
        for row in world.rows
    ]


def _statuses(scores: Scores) -> dict[str, list[int]]:
    """Return the status of each member per listing, which is the same for every policy."""
    status_NPM = scores.signal_status_NPM
    assert (status_NPM == status_NPM[:, :1]).all()
    return {name: status_NPM[:, 0, m].tolist() for m, name in enumerate(SIGNALS)}


def _same(one: Scores, other: Scores, *rows: int) -> bool:
    picked = list(rows) or slice(None)
    return all(
        np.array_equal(getattr(one, name)[picked], getattr(other, name))
        for name in ("probability_NP", "signals_NPM", "signal_status_NPM", "worst_image_NP")
    )


def test_every_combination_of_modalities_is_scored(scorer: Scorer) -> None:
    items = [
        ScoringItem(
            title="blue lamp" if bits & 2 else "",
            images=[IMAGE] if bits & 1 else [],
            behaviour=BEHAVIOUR if bits & 4 else None,
        )
        for bits in range(8)
    ]
    scores = scorer.score(items)
    assert _statuses(scores) == {
        "fusion": [MISSING, OK, OK, OK, MISSING, OK, OK, OK],
        "image": [MISSING, OK] * 4,
        "text": [MISSING, MISSING, OK, OK] * 2,
        "ngram": [MISSING, MISSING, OK, OK] * 2,
        "behaviour": [MISSING] * 4 + [OK] * 4,
    }
    assert scores.probability_NP[0].tolist() == [0.25] * len(POLICIES)
    assert ((scores.probability_NP > 0) & (scores.probability_NP < 1)).all()
    assert (scores.signals_NPM[scores.signal_status_NPM != OK] == 0).all()
    assert scores.worst_image_NP[:, 0].tolist() == [-1, 0] * 4


def test_undecodable_images_are_errors_when_none_decodes(scorer: Scorer) -> None:
    scores = scorer.score(
        [
            ScoringItem(images=[CORRUPT]),
            ScoringItem(title="lamp", images=[CORRUPT, b""]),
            ScoringItem(images=[CORRUPT, IMAGE]),
        ]
    )
    assert _statuses(scores)["image"] == [ERROR, ERROR, OK]
    assert _statuses(scores)["fusion"] == [ERROR, OK, OK]
    assert scores.undecodable == ((0,), (0, 1), (0,))
    assert scores.worst_image_NP[:, 0].tolist() == [-1, -1, 1]
    alone = scorer.score([ScoringItem(images=[IMAGE])])
    assert np.array_equal(scores.signals_NPM[2], alone.signals_NPM[0])


def test_worst_image_counts_submitted_images(scorer: Scorer) -> None:
    rng = np.random.default_rng(8)
    images = [toy_image(rng, None), CORRUPT, toy_image(rng, (200, 30, 30)), toy_image(rng, None)]
    singles = scorer.score([ScoringItem(images=[image]) for image in images])
    image_of = SIGNALS.index("image")
    logits_KP = np.where(
        singles.signal_status_NPM[..., image_of] == OK, singles.signals_NPM[..., image_of], -np.inf
    )
    together = scorer.score([ScoringItem(images=images)])
    assert together.worst_image_NP[0].tolist() == logits_KP.argmax(axis=0).tolist()
    assert together.signals_NPM[0, :, image_of].tolist() == logits_KP.max(axis=0).tolist()


def test_scores_do_not_depend_on_batch(scorer: Scorer, items: list[ScoringItem]) -> None:
    together = scorer.score(items, with_embeddings=True)
    for row in (0, 7, 15, 39):
        assert _same(together, scorer.score([items[row]]), row)
    backwards = scorer.score(items[::-1])
    assert _same(backwards, together, *reversed(range(len(items))))
    many = scorer.score(items * 2, with_embeddings=True)
    assert _same(many, together, *range(40))
    assert many.embedding_image_ND is not None
    assert together.embedding_image_ND is not None
    assert np.array_equal(many.embedding_image_ND[40:], together.embedding_image_ND)


def test_scores_do_not_depend_on_threads(tiny_bundle: Bundle, items: list[ScoringItem]) -> None:
    scorer = Scorer.load(tiny_bundle.folder, num_threads=1)
    expected = scorer.score(items)
    with ThreadPoolExecutor(4) as pool:
        assert all(_same(expected, got) for got in pool.map(scorer.score, [items] * 8))


def test_recorded_signals_combine_bit_for_bit(scorer: Scorer, items: list[ScoringItem]) -> None:
    scores = scorer.score(items)
    again = scorer.combine(scores.signals_NPM, scores.signal_status_NPM)
    assert again.tobytes() == scores.probability_NP.tobytes()
    travelled = scores.signals_NPM.astype(np.float32).astype(np.float64)
    for row in range(len(items)):
        alone = scorer.combine(travelled[[row]], scores.signal_status_NPM[[row]])
        assert alone.tobytes() == scores.probability_NP[[row]].tobytes()


def test_decoded_images_score_as_their_bytes(scorer: Scorer) -> None:
    decoded = Image.open(io.BytesIO(IMAGE)).convert("RGB")
    from_bytes = scorer.score([ScoringItem(images=[IMAGE])])
    assert _same(from_bytes, scorer.score([ScoringItem(images=[decoded])]))


@pytest.mark.parametrize("gap", [np.nan, np.inf, -np.inf])
def test_behaviour_gap_equals_its_status(scorer: Scorer, gap: float) -> None:
    values, status = BEHAVIOUR.copy(), np.zeros(F, np.int8)
    values[4], status[4] = gap, MISSING
    by_value = scorer.score([ScoringItem(behaviour=values)])
    zeroed = np.where(status == OK, BEHAVIOUR, 0).astype(np.float32)
    by_status = scorer.score([ScoringItem(behaviour=zeroed, behaviour_status=status)])
    assert _same(by_value, by_status)
    assert _statuses(by_value)["behaviour"] == [OK]


@pytest.mark.parametrize(("code", "expected"), [(MISSING, MISSING), (ERROR, ERROR)])
def test_behaviour_is_absent_when_no_feature_is_known(
    scorer: Scorer, code: int, expected: int
) -> None:
    status = np.full(F, code, np.int8)
    scores = scorer.score([ScoringItem(behaviour=BEHAVIOUR, behaviour_status=status)])
    assert _statuses(scores)["behaviour"] == [expected]
    assert scores.probability_NP[0].tolist() == [0.25] * len(POLICIES)


@pytest.mark.parametrize(
    ("item", "field"),
    [
        (ScoringItem(images=[IMAGE] * 9), r"items\[1\]\.images"),
        (ScoringItem(behaviour=BEHAVIOUR[:3]), r"items\[1\]\.behaviour: "),
        (ScoringItem(behaviour_status=np.zeros(3, np.int8)), r"items\[1\]\.behaviour_status"),
        (ScoringItem(behaviour_status=np.full(F, 7, np.int8)), "not one of"),
    ],
)
def test_item_is_refused_when_it_breaks_a_limit(
    scorer: Scorer, item: ScoringItem, field: str
) -> None:
    with pytest.raises(InvalidListing, match=field):
        scorer.score([ScoringItem(title="fine"), item])


def test_empty_batch_gives_empty_scores(scorer: Scorer) -> None:
    scores = scorer.score([], with_embeddings=True)
    assert scores.probability_NP.shape == (0, len(POLICIES))
    assert scores.signals_NPM.shape == (0, len(POLICIES), len(SIGNALS))
    assert scores.undecodable == ()


def test_text_is_missing_when_nothing_is_left_of_it(scorer: Scorer) -> None:
    blanks = ["", "   ", "\u200b\u200d", "\n\t"]
    scores = scorer.score([ScoringItem(title=blank, description=blank) for blank in blanks])
    assert _statuses(scores)["text"] == [MISSING] * len(blanks)
    assert _statuses(scores)["ngram"] == [MISSING] * len(blanks)


def test_long_text_is_scored_in_bounded_time(scorer: Scorer) -> None:
    scores = scorer.score([ScoringItem(description="g.u.n \u200b" * 150_000)])
    assert _statuses(scores)["text"] == [OK]
    assert sum(scores.latency_s.values()) < 20


def test_latency_names_every_stage(scorer: Scorer, items: list[ScoringItem]) -> None:
    latency = scorer.score(items).latency_s
    stages = {"prepare", "image_tower", "text_tower", "heads", "ngram", "behaviour", "ensemble"}
    assert set(latency) == stages
    assert all(seconds >= 0 for seconds in latency.values())
    assert (
        latency["image_tower"] > 1e-3
    )  # decoding alone takes longer: the work is inside its stage


def test_thresholds_hold_open_tiers_alone(scorer: Scorer) -> None:
    assert scorer.thresholds == {p: {"tag": 0.2, "review": 0.4, "block": 0.8} for p in POLICIES}


def test_scorer_is_refused_when_bundle_is_altered(bundle_copy: Path, tiny_bundle: Bundle) -> None:
    with pytest.raises(BundleRejected, match="expected digest"):
        Scorer.load(bundle_copy, digest="0" * 64)
    path = bundle_copy / "ensemble.json"
    path.write_text(path.read_text().replace("1.5", "1.6"))
    with pytest.raises(BundleRejected, match=r"ensemble\.json: was altered"):
        Scorer.load(bundle_copy)


def test_scoring_imports_no_torch(tiny_bundle: Bundle) -> None:
    code = (
        "import sys; from pathlib import Path; from moderation.scoring import Scorer, ScoringItem; "
        f"Scorer.load(Path({str(tiny_bundle.folder)!r})).score([ScoringItem(title='lamp')]); "
        "heavy = {'torch', 'transformers', 'timm', 'lightning', 'mlflow', 'onnx'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


_BYTES = st.one_of(
    st.binary(max_size=64),
    st.integers(0, len(IMAGE)).map(lambda cut: IMAGE[:cut]),
    st.integers(8, len(IMAGE) - 1).map(
        lambda at: IMAGE[:at] + bytes([IMAGE[at] ^ 255]) + IMAGE[at + 1 :]
    ),
)
_FLOATS: st.SearchStrategy[npt.NDArray[np.float32]] = st.lists(
    st.floats(width=32), min_size=F, max_size=F
).map(lambda values: np.array(values, np.float32))


@given(
    title=st.text(max_size=80),
    images=st.lists(_BYTES, max_size=3),
    behaviour=st.none() | _FLOATS,
    codes=st.none() | st.lists(st.sampled_from([OK, MISSING, ERROR]), min_size=F, max_size=F),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_input_gets_probabilities(
    scorer: Scorer,
    title: str,
    images: list[bytes],
    behaviour: npt.NDArray[np.float32] | None,
    codes: list[int] | None,
) -> None:
    status = None if codes is None else np.array(codes, np.int8)
    item = ScoringItem(title=title, images=images, behaviour=behaviour, behaviour_status=status)
    scores = scorer.score([item, replace(item, images=())])
    assert np.isfinite(scores.signals_NPM).all()
    assert ((scores.probability_NP >= 0) & (scores.probability_NP <= 1)).all()
    assert len(scores.undecodable[0]) <= len(images)
