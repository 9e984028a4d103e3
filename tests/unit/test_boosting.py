"""Boosted trees on behaviour: deterministic, honest about missing rows, safe to share among threads."""

import ctypes
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from numpy.testing import assert_array_equal

from moderation import boosting
from moderation.boosting import BoostingModel, fit_boosting
from moderation.errors import BundleRejected, InvalidSnapshot, PermanentError
from moderation.features import FEATURE_NAMES

F = len(FEATURE_NAMES)
POLICIES = ("weapons", "spam")


def _world(
    num_rows: int, seed: int = 0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8], npt.NDArray[np.int64]]:
    """Return behaviour, truth of two policies (the second has too few positives) and groups."""
    rng = np.random.default_rng(seed)
    behaviour_NF = rng.normal(size=(num_rows, F)).astype(np.float32)
    chance_N = 1 / (1 + np.exp(-(2 * behaviour_NF[:, 3] - 2)))
    truth_NP = np.zeros((num_rows, 2), np.int8)
    truth_NP[:, 0] = rng.random(num_rows) < chance_N
    truth_NP[:3, 1] = 1
    behaviour_NF[rng.random((num_rows, F)) < 0.1] = np.nan
    return behaviour_NF, truth_NP, rng.integers(0, num_rows // 2, num_rows)


@pytest.fixture(scope="module")
def model() -> BoostingModel:
    behaviour_NF, truth_NP, group_N = _world(800)
    weight_N = np.ones(800)
    return fit_boosting(behaviour_NF, truth_NP, weight_N, group_N, seed=1, num_threads=1)


def test_boosting_ranks_unseen_sellers(model: BoostingModel) -> None:
    behaviour_NF, truth_NP, _ = _world(600, seed=9)
    logits_N = model.logits(behaviour_NF)[:, 0]
    positive, negative = logits_N[truth_NP[:, 0] == 1], logits_N[truth_NP[:, 0] == 0]
    assert (positive[:, None] > negative[None]).mean() > 0.8


def test_policy_with_few_positives_answers_its_base_rate(model: BoostingModel) -> None:
    behaviour_NF, _, _ = _world(20, seed=2)
    np.testing.assert_allclose(model.logits(behaviour_NF)[:, 1], np.log(3 / 797))


def test_row_without_any_feature_is_missing(model: BoostingModel) -> None:
    behaviour_NF = np.zeros((2, F), np.float32)
    behaviour_NF[0] = np.nan
    logits_NP = model.logits(behaviour_NF)
    assert np.isnan(logits_NP[0]).all()
    assert np.isfinite(logits_NP[1]).all()


def test_logits_do_not_depend_on_the_batch(model: BoostingModel) -> None:
    behaviour_NF, _, _ = _world(40, seed=3)
    alone = np.concatenate([model.logits(row[None]) for row in behaviour_NF])
    assert_array_equal(model.logits(behaviour_NF), alone)


def test_logits_are_equal_from_many_threads(model: BoostingModel) -> None:
    behaviour_NF, _, _ = _world(40, seed=3)
    expected = model.logits(behaviour_NF)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: model.logits(behaviour_NF), range(12)))
    for answer in answers:
        assert_array_equal(answer, expected)


def test_fit_is_the_same_twice(model: BoostingModel) -> None:
    behaviour_NF, truth_NP, group_N = _world(800)
    again = fit_boosting(behaviour_NF, truth_NP, np.ones(800), group_N, seed=1, num_threads=1)
    assert again.model_texts == model.model_texts


def test_prior_shifts_by_the_weight_of_negatives(model: BoostingModel) -> None:
    behaviour_NF, truth_NP, group_N = _world(800)
    weight_N = np.where(truth_NP[:, 0] == 1, 1.0, 50.0)
    heavy = fit_boosting(behaviour_NF, truth_NP, weight_N, group_N, seed=1, num_threads=1)
    assert model.shift_P[0] - heavy.shift_P[0] == pytest.approx(np.log(50))


def test_noise_grows_no_trees_worth_keeping() -> None:
    rng = np.random.default_rng(4)
    behaviour_NF = rng.normal(size=(400, F)).astype(np.float32)
    truth_NP = (rng.random((400, 1)) < 0.1).astype(np.int8)
    group_N = np.arange(400)
    model = fit_boosting(behaviour_NF, truth_NP, np.ones(400), group_N, seed=1, num_threads=1)
    assert np.std(model.logits(behaviour_NF)) < 0.5


def test_model_survives_a_round_trip(model: BoostingModel, tmp_path: Path) -> None:
    model.save(tmp_path, POLICIES)
    behaviour_NF, _, _ = _world(30, seed=5)
    loaded = BoostingModel.load(tmp_path)
    assert_array_equal(loaded.logits(behaviour_NF), model.logits(behaviour_NF))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["behaviour.json", "weapons.txt"]


def test_load_refuses_damaged_trees(model: BoostingModel, tmp_path: Path) -> None:
    model.save(tmp_path, POLICIES)
    (tmp_path / "weapons.txt").write_text("not a tree")
    with pytest.raises(BundleRejected, match="LightGBM cannot read"):
        BoostingModel.load(tmp_path)


def test_load_refuses_other_features(model: BoostingModel, tmp_path: Path) -> None:
    model.save(tmp_path, POLICIES)
    info = json.loads((tmp_path / "behaviour.json").read_text())
    info["features"] = ["seller_age_days"]
    (tmp_path / "behaviour.json").write_text(json.dumps(info))
    with pytest.raises(BundleRejected, match="other features"):
        BoostingModel.load(tmp_path)


def test_logits_refuse_a_wrong_width(model: BoostingModel) -> None:
    with pytest.raises(InvalidSnapshot, match="expected"):
        model.logits(np.zeros((2, 3), np.float32))


def test_openmp_is_found_in_torch_when_the_system_lacks_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[str] = []

    def refuse_system(name: str, mode: int = 0) -> object:
        tried.append(name)
        if name == "libgomp.so.1":
            raise OSError("not found")
        return object()

    monkeypatch.setattr(ctypes, "CDLL", refuse_system)
    boosting._load_openmp()
    assert tried[-1].endswith("torch/lib/libgomp.so.1")


def test_openmp_error_names_the_remedy_when_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, mode: int = 0) -> object:
        raise OSError("not found")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    with pytest.raises(PermanentError, match="install libgomp1"):
        boosting._load_openmp()
