"""The n-gram model: stable hashing, bounded influence, signs of hiding, prior of deployment."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from moderation.errors import BundleRejected, InvalidSnapshot
from moderation.ngram import NgramModel, fit_ngram
from moderation.ngram_features import HASH_BITS, MAX_CHARS, hash_features
from moderation.text import SIGNS, NgramText, ngram_texts

_BAD = ("glock", "silencer", "ammo")
_GOOD = ("holster", "toy", "wooden", "puzzle", "teapot", "blanket", "saddle", "lantern")
_NO_SIGNS = (0.0,) * len(SIGNS)
_HONEST, _TRACE = "wooden saddle lantern toy", "wo\u200boden saddle lantern toy"


def _pair(text: str, signs: tuple[float, ...] = _NO_SIGNS) -> NgramText:
    return NgramText(text, text.replace("1", "l"), signs)


def _world(num_rows: int, seed: int = 3) -> tuple[list[NgramText], np.ndarray, np.ndarray]:
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


def _hiding(*, violating: float, honest: float, word: str = "toy") -> NgramModel:
    """Return a model of titles in which these shares hide a character; violating ones hold `word`."""
    rng = np.random.default_rng(7)
    truth_N = (rng.random(500) < 0.3).astype(np.int8)
    texts, num_seen = [], [0, 0]
    for violates in truth_N:
        words = list(rng.choice(_GOOD, 6))
        words[0] = word if violates else words[0]
        share = violating if violates else honest
        num_seen[violates] += 1
        if int(num_seen[violates] * share) > int((num_seen[violates] - 1) * share):
            words[5] = f"{words[5][:2]}\u200b{words[5][2:]}"
        texts.append(ngram_texts(" ".join(words), ""))
    return fit_ngram(texts, truth_N[:, None], np.ones(500), seed=1)


def _says(model: NgramModel, *titles: str) -> list[float]:
    logits: list[float] = model.logits([ngram_texts(title, "") for title in titles])[:, 0].tolist()
    return logits


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
    texts[7] = _pair("")
    texts[8] = ngram_texts("大 平 gl\u200bock", "G.L.O.C.K")
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
        "from moderation.text import ngram_texts as n;"
        "import hashlib as l; m = h([n('g1ock f\\u200b\u00fcr 9mm', 'G.U.N'), n('', '')]);"
        "print(l.sha256(m.indices.tobytes() + m.data.tobytes()).hexdigest())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    golden = "37979c348372aacea8936d038a7d56e27414b4735a2fbd6adb7b82da9904041c"
    assert run.stdout.strip() == golden


def test_hash_ignores_neighbours_in_the_batch() -> None:
    texts = [_pair("a toy"), ngram_texts("am\u200bmo box", ""), _pair("")]
    together = hash_features(texts)
    assert_array_equal(together[1].toarray(), hash_features(texts[1:2]).toarray())


def test_hash_takes_hostile_text_when_huge() -> None:
    hostile = "\ud800\x00" * 500_000
    features = hash_features([NgramText(hostile, hostile, _NO_SIGNS)])
    assert features.shape == (1, 2**HASH_BITS)
    assert features.nnz < 4 * MAX_CHARS


def test_hash_of_nothing_is_empty() -> None:
    assert hash_features([]).shape == (0, 2**HASH_BITS)


def test_hash_tells_the_faintest_sign_from_none() -> None:
    values = (0.0, 1e-9, 1 / 80, 0.1, 0.24, 0.3, 0.6, 1.0)
    for place in range(len(SIGNS)):
        signs = [(*_NO_SIGNS[:place], value, *_NO_SIGNS[place + 1 :]) for value in values]
        rows = hash_features([_pair("toy", sign) for sign in signs])
        columns = {tuple(row.indices.tolist()) for row in rows}
        assert len(columns) == len(values) - 1  # the two faintest share a bin
        np.testing.assert_allclose(rows.power(2).sum(axis=1), 4, rtol=1e-5)


def test_hash_refuses_signs_that_are_not_all_there() -> None:
    with pytest.raises(ValueError, match="reshape"):
        hash_features([_pair("toy", (0.0,))])


def test_hidden_character_raises_the_logit_when_violations_hide() -> None:
    assert ngram_texts(_HONEST, "")[:2] == ngram_texts(_TRACE, "")[:2]  # only the sign differs
    honest, trace, flood = _says(
        _hiding(violating=0.6, honest=0.02),
        _HONEST,
        _TRACE,
        _HONEST.replace("oo", "o" + 40 * "\u200b" + "o"),
    )
    assert trace > honest + 3
    assert flood > honest + 2  # training never showed as many


def test_hidden_character_says_nothing_when_all_hide_alike() -> None:
    rng = np.random.default_rng(7)
    truth_N = (rng.random(200) < 0.3).astype(np.int8)
    titles = [f"{'glock' if bad else 'toy'} {' '.join(rng.choice(_GOOD, 5))}" for bad in truth_N]
    hidden = [f"{title[:2]}\u200b{title[2:]}" for title in titles]
    texts = [ngram_texts(title, "") for title in (*titles, *hidden)]
    model = fit_ngram(texts, np.tile(truth_N, 2)[:, None], np.ones(400), seed=1)
    honest, trace = _says(model, _HONEST, _TRACE)
    assert abs(trace - honest) < 0.05


def test_hidden_character_says_little_when_it_differs_by_chance() -> None:
    for share in (0.0, 0.3, 1.0):
        honest, trace = _says(_hiding(violating=share, honest=share), _HONEST, _TRACE)
        assert abs(trace - honest) < 0.5


def test_hidden_character_decides_less_than_words() -> None:
    model = _hiding(violating=0.5, honest=0.1, word="glock")
    honest, trace, word, both = _says(model, _HONEST, _TRACE, f"glock {_HONEST}", f"glock {_TRACE}")
    assert honest < trace < word < both
    assert trace < 0


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


def test_load_refuses_other_signs(model: NgramModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    info = json.loads((tmp_path / "ngram.json").read_text())
    (tmp_path / "ngram.json").write_text(json.dumps(info | {"signs": ["length"]}))
    with pytest.raises(BundleRejected, match="its signs are"):
        NgramModel.load(tmp_path)


@pytest.mark.parametrize("name", ["ngram.json", "ngram.safetensors"])
def test_load_refuses_a_damaged_file(name: str, model: NgramModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(BundleRejected, match="no readable n-gram model"):
        NgramModel.load(tmp_path)
