"""The evaluation: its figures, its page, and the reference profile that travels with a bundle."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moderation.calibration import fit_ensemble, solve_all
from moderation.errors import BundleRejected, InvalidSnapshot
from moderation.evaluation.judgement import BASELINE, ENSEMBLE, EVASIVE, Subject
from moderation.evaluation.reference import (
    Moments,
    load_reference,
    profile_embeddings,
    profile_features,
    profile_scores,
    save_reference,
)
from moderation.evaluation.report import MAX_HTML_BYTES, evaluate, render
from moderation.features import FEATURE_NAMES
from moderation.signals import SignalTable, as_words
from tests.signal_world import policies, signal_world

Figures = dict[str, Any]


def _subject(table: SignalTable) -> Subject:
    ensemble = fit_ensemble(table, policies(), seed=3)
    solved = solve_all(table, ensemble, policies(), seed=3)
    rng = np.random.default_rng(1)
    words_NP = rng.poisson(0.2 + 0.8 * table.truth_NP).astype(np.float64)
    baseline_NP = np.where((table.role == "test")[:, None], words_NP, np.nan)
    return Subject(table, ensemble, policies(), solved, baseline_NP, {"bundle": "3f" * 32})


@pytest.fixture(scope="module")
def subject() -> Subject:
    return _subject(signal_world(12_000))


@pytest.fixture(scope="module")
def folder(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    evaluate(subject, out, seed=1, num_resamples=60)
    return out


@pytest.fixture(scope="module")
def figures(folder: Path) -> Figures:
    content: Figures = json.loads((folder / "metrics.json").read_text())
    return content


def test_ensemble_leads_every_part_and_the_baseline(figures: Figures) -> None:
    for found in figures["policies"].values():
        own = found["average_precision"][ENSEMBLE]
        assert own["low"] < own["value"] < own["high"]
        assert set(found["against"]) == {*found["average_precision"]} - {ENSEMBLE}
        for name in ("image", "text", "ngram", "behaviour", BASELINE):
            assert found["against"][name]["verdict"] == "better"


def test_prevalence_is_that_of_the_traffic(figures: Figures, subject: Subject) -> None:
    test = subject.signals.select("test")
    truth_N = test.truth_NP[:, 0]
    expected = (test.weight * truth_N).sum() / test.weight.sum()
    found = figures["policies"]["weapons"]
    assert found["prevalence"] == pytest.approx(expected)
    assert found["prevalence"] < truth_N.mean() / 3  # the sample is enriched


def test_slices_cover_evasion_and_unseen_sellers(figures: Figures) -> None:
    slices = {part["slice"]: part for part in figures["policies"]["spam"]["slices"]}
    assert {EVASIVE, "seller seen", "seller unseen"} <= set(slices)
    assert slices[EVASIVE]["against"]["text"]["verdict"] in ("better", "tie", "worse")
    assert slices[EVASIVE]["positives"] < figures["policies"]["spam"]["positives"]


def test_tiers_tell_what_they_did_on_test_rows(figures: Figures) -> None:
    tiers = figures["policies"]["weapons"]["tiers"]
    review = tiers["review"]["test"]
    assert 0 < review["precision"]["low"] <= review["precision"]["value"] <= 1
    for evidence in tiers.values():
        assert (evidence["test"] is None) == (evidence["threshold"] is None)


def test_every_pattern_of_modalities_is_judged(figures: Figures) -> None:
    rows = figures["policies"]["weapons"]["modalities"]
    by_name = {row["pattern"]: row["average_precision"] for row in rows}
    assert len(by_name) == 7
    assert by_name["image+text+behaviour"] > by_name["image"] > by_name["behaviour"]


def test_flat_metrics_are_finite_numbers(figures: Figures) -> None:
    flat = figures["metrics"]
    assert flat["weapons.ap.ensemble"] > flat["weapons.ap.keywords_and_hashes"]
    assert all(isinstance(value, float) for value in flat.values())


def test_evaluation_is_the_same_twice(subject: Subject, folder: Path, tmp_path: Path) -> None:
    evaluate(subject, tmp_path, seed=1, num_resamples=60)
    for name in ("metrics.json", "report.html"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


class _Links(HTMLParser):
    """Collects what a page would fetch, and whether its tags are balanced."""

    _VOID = frozenset({"meta", "line", "circle", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [str(value) for name, value in attrs if name in ("src", "href", "data")]
        if tag not in self._VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self._VOID:
            assert self.open.pop() == tag


def test_page_is_small_whole_and_fetches_nothing(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    assert len(text.encode()) <= MAX_HTML_BYTES
    parser = _Links()
    parser.feed(text)
    assert parser.open == []
    assert all(link.startswith("#") for link in parser.fetched)
    assert not re.search(r"https?://|@import|url\(", text)
    assert "prefers-color-scheme:dark" in text


def test_page_escapes_what_comes_from_data(figures: Figures) -> None:
    hostile = json.loads(json.dumps(figures))
    hostile["facts"] = {"<script>alert(1)</script>": '"><img src=x>'}
    hostile["policies"]["weapons"]["slices"][0]["slice"] = "<b>bold</b>"
    text = render(hostile)
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;b&gt;bold" in text


def test_page_stays_small_with_many_policies(figures: Figures) -> None:
    many = {**figures, "policies": {}}
    for index in range(64):
        many["policies"][f"policy_{index}"] = figures["policies"]["spam"]
    text = render(many)
    assert len(text.encode()) <= MAX_HTML_BYTES
    assert "further policies are in metrics.json" in text


def _without_violations(table: SignalTable) -> SignalTable:
    truth_NP = np.where((table.role == "test")[:, None], 0, table.truth_NP).astype(np.int8)
    return replace(table, truth_NP=truth_NP)


def _images_only(table: SignalTable) -> SignalTable:
    absent = np.full_like(table.image_NP, np.nan)
    return replace(
        table,
        text_NP=absent,
        ngram_NP=absent,
        behaviour_NP=absent,
        fusion_both_NP=absent,
        fusion_text_NP=absent,
    )


def _no_slices(table: SignalTable) -> SignalTable:
    return replace(table, slices={})


@pytest.mark.parametrize("poorer", [_without_violations, _images_only, _no_slices])
def test_evaluation_says_so_when_data_is_poor(
    poorer: Callable[[SignalTable], SignalTable], tmp_path: Path
) -> None:
    subject = _subject(poorer(signal_world(4_000)))
    evaluate(subject, tmp_path, seed=1, num_resamples=20)
    assert "n/a" in (tmp_path / "report.html").read_text() or poorer is _no_slices
    json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)


def test_evaluation_without_a_baseline_says_so(subject: Subject, tmp_path: Path) -> None:
    evaluate(replace(subject, baseline_NP=None), tmp_path, seed=1, num_resamples=10)
    assert "no baseline given" in (tmp_path / "report.html").read_text()


def test_evaluation_refuses_a_table_without_test_rows(subject: Subject, tmp_path: Path) -> None:
    trained = replace(subject.signals, role=as_words(["train"] * subject.signals.num_rows))
    with pytest.raises(InvalidSnapshot, match="role test"):
        evaluate(replace(subject, signals=trained), tmp_path, seed=1)


def test_moments_in_batches_equal_those_at_once() -> None:
    rng = np.random.default_rng(0)
    vectors_ND, weight_N = rng.normal(3, 2, (500, 4)), rng.uniform(1, 9, 500)
    batches = [{"image": (vectors_ND[a : a + 90], weight_N[a : a + 90])} for a in range(0, 500, 90)]
    found = profile_embeddings(batches)["image"]
    mean_D = np.average(vectors_ND, axis=0, weights=weight_N)
    variance_D = np.average((vectors_ND - mean_D) ** 2, axis=0, weights=weight_N)
    np.testing.assert_allclose(found["mean"], mean_D, atol=1e-5)
    np.testing.assert_allclose(found["variance"], variance_D, atol=1e-5)


def test_moments_of_few_rows_are_withheld() -> None:
    moments = Moments()
    moments.add(np.ones((5, 3)), np.ones(5))
    assert moments.record() is None


def test_reference_survives_a_round_trip(subject: Subject, tmp_path: Path) -> None:
    table = subject.signals
    rng = np.random.default_rng(2)
    behaviour_NF = rng.normal(size=(table.num_rows, len(FEATURE_NAMES))).astype(np.float32)
    behaviour_NF[: table.num_rows // 2, 0] = np.nan
    behaviour_NF[:, 1] = np.nan
    features = profile_features(behaviour_NF, table.weight)
    signals = table.natural()
    log_odds_NP = subject.ensemble.log_odds(*signals)
    probability_NP = subject.ensemble.combine(*signals)
    scores = profile_scores(log_odds_NP, probability_NP, table.weight, subject.solved)
    path = tmp_path / "reference.json"
    save_reference(path, {"features": features, "scores": scores}, num_rows=table.num_rows)
    loaded = load_reference(path)
    assert loaded["features"][FEATURE_NAMES[1]]["missing"] == 1.0
    third = loaded["features"][FEATURE_NAMES[2]]
    assert len(third["shares"]) == len(third["edges"]) + 1
    assert sum(third["shares"]) == pytest.approx(1, abs=1e-6)
    weapons = loaded["scores"]["weapons"]
    assert sum(weapons["shares"]) == pytest.approx(1, abs=1e-6)
    assert sum(weapons["tiers"].values()) == pytest.approx(1, abs=1e-6)
    review = probability_NP[:, 0] >= subject.solved[0].open["review"]
    expected = table.weight[review].sum() / table.weight.sum()
    strong = sum(weapons["tiers"].get(name, 0) for name in ("review", "block", "suspend"))
    assert strong == pytest.approx(expected, abs=1e-6)


def test_load_refuses_a_damaged_reference(tmp_path: Path) -> None:
    path = tmp_path / "reference.json"
    path.write_text('{"format": 99}')
    with pytest.raises(BundleRejected, match="reference profile"):
        load_reference(path)
