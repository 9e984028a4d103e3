"""The n-gram model: stable hashing, bounded influence, prior at deployment prevalence."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from moderation.errors import BundleRejected, InvalidSnapshot
from moderation.ngram import NgramModel, fit_ngram
from moderation.ngram_features import HASH_BITS, MAX_CHARS, hash_features

_BAD = ("glock", "silencer", "ammo")
_GOOD = ("holster", "toy", "wooden", "puzzle", "teapot", "blanket", "saddle", "lantern")


def _pair(text: str) -> tuple[str, str]:
    return text, text.replace("1", "l")


def _world(num_rows: int, seed: int = 3) -> tuple[list[tuple[str, str]], np.ndarray, np.ndarray]:
    """Return texts, truth of two policies (the second never violated) and weights."""
    rng = np.random.default_rng(seed)
    truth_N = (rng.random(num_rows) < 0.15).astype(np.int8)
    texts = []
    for violates in truth_N:
        words = list(rng.choice(_GOOD, 6))
        if violates:
            word = str(rng.choice(_BAD))
            words.insert(
                int(rng.integers(6)), word.replace("l", "1") if rng.random() < 0.5 else word
            )
        texts.append(_pair(" ".join(words)))
    truth_NP = np.stack([truth_N, np.zeros(num_rows, np.int8)], axis=1)
    return texts, truth_NP, np.where(truth_N == 1, 1.0, 20.0)


@pytest.fixture(scope="module")
def model() -> NgramModel:
    texts, truth_NP, weight_N = _world(600)
    return fit_ngram(iter(texts), truth_NP, weight_N, seed=5)


def test_ngram_ranks_unseen_violations_first(model: NgramModel) -> None:
    texts, truth_NP, _ = _world(300, seed=11)
    logits_N = model.logits(texts)[:, 0]
    assert logits_N[truth_NP[:, 0] == 1].min() > logits_N[truth_NP[:, 0] == 0].max()


def test_ngram_reads_obfuscated_words(model: NgramModel) -> None:
    plain, spelt, honest = model.logits([_pair("glock"), _pair("g1ock"), _pair("lantern")])[:, 0]
    assert min(plain, spelt) > honest + 1


def test_prior_shifts_by_the_weight_of_negatives() -> None:
    texts, truth_NP, _ = _world(200)
    heavy_N = np.where(truth_NP[:, 0] == 1, 1.0, 20.0)
    as_drawn = fit_ngram(texts, truth_NP, np.ones(200), seed=1).logits(texts)[:, 0]
    as_deployed = fit_ngram(texts, truth_NP, heavy_N, seed=1).logits(texts)[:, 0]
    np.testing.assert_allclose(as_drawn - as_deployed, np.log(20), atol=0.05)


def test_policy_without_positives_answers_a_low_prior(model: NgramModel) -> None:
    logits_NP = model.logits([_pair("glock ammo"), _pair("")])
    assert (logits_NP[:, 1] < -5).all()


def test_logits_do_not_depend_on_the_batch(model: NgramModel) -> None:
    texts, _, _ = _world(50, seed=4)
    texts[7] = ("", "")
    texts[8] = ("大 平 glock", "大 平 glock")
    alone = np.concatenate([model.logits([pair]) for pair in texts])
    assert_array_equal(model.logits(texts), alone)


def test_repeating_a_word_changes_nothing(model: NgramModel) -> None:
    once = model.logits([_pair("glock toy ")])
    # the joint between repeats adds few n-grams; presence, not counts, is what is read
    often = model.logits([_pair("glock toy " * 50)])
    assert abs(once - often)[0, 0] < 1.0


def test_hash_is_the_same_in_another_process() -> None:
    code = (
        "from moderation.ngram_features import hash_features as h;"
        "import hashlib as l; m = h([('g1ock für 9mm', 'glock fur 9mm'), ('', '')]);"
        "print(l.sha256(m.indices.tobytes() + m.data.tobytes()).hexdigest())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    golden = "5ceebac018b57a8e6d54915f8fa47b8ddafcb6b4911bdc915ec0404fbe441f97"
    assert run.stdout.strip() == golden


def test_hash_ignores_neighbours_in_the_batch() -> None:
    texts = [_pair("a toy"), _pair("ammo box"), _pair("")]
    together = hash_features(texts)
    assert_array_equal(together[1].toarray(), hash_features(texts[1:2]).toarray())


def test_hash_takes_hostile_text_when_huge() -> None:
    hostile = "\ud800\x00" * 500_000
    features = hash_features([(hostile, hostile)])
    assert features.shape == (1, 2**HASH_BITS)
    assert features.nnz < 4 * MAX_CHARS


def test_hash_of_nothing_is_empty() -> None:
    assert hash_features([]).shape == (0, 2**HASH_BITS)


def test_fit_is_the_same_twice() -> None:
    texts, truth_NP, weight_N = _world(200)
    first, again = (fit_ngram(texts, truth_NP, weight_N, seed=1) for _ in range(2))
    assert_array_equal(first.weights_DP, again.weights_DP)
    assert_array_equal(first.bucket_D, again.bucket_D)


def test_unknown_truth_does_not_train() -> None:
    texts, truth_NP, weight_N = _world(200)
    unknown = [*texts, *[_pair("lantern")] * 30]
    truth_UP = np.concatenate([truth_NP, np.full((30, 2), -1, np.int8)])
    weight_U = np.concatenate([weight_N, np.full(30, 99.0)])
    known = fit_ngram(texts, truth_NP, weight_N, seed=1)
    padded = fit_ngram(unknown, truth_UP, weight_U, seed=1)
    assert_array_equal(known.weights_DP, padded.weights_DP)


def test_fit_refuses_texts_that_do_not_match() -> None:
    with pytest.raises(InvalidSnapshot, match="2 texts came for 3 rows"):
        fit_ngram([_pair("a"), _pair("b")], np.zeros((3, 1), np.int8), np.ones(3), seed=0)


def test_model_survives_a_round_trip(model: NgramModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    texts, _, _ = _world(20, seed=8)
    assert_array_equal(NgramModel.load(tmp_path).logits(texts), model.logits(texts))


@pytest.mark.parametrize("name", ["ngram.json", "ngram.safetensors"])
def test_load_refuses_a_damaged_file(name: str, model: NgramModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(BundleRejected, match="no readable n-gram model"):
        NgramModel.load(tmp_path)
