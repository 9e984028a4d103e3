"""The evidence pack: its page, judgement, model card and summary, for candidates good, broken and first."""

import io
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moderation.errors import PermanentError
from moderation.evaluation.report import MAX_HTML_BYTES
from moderation.gates.estimates import Estimate, Resampled
from moderation.gates.evidence import Answers, Evidence
from moderation.gates.judging import MEASURES, Check, GateResult, Judgement, judge
from moderation.pack import Pack, load_record, write_pack
from moderation.pack.changes import changes_of, data_url
from moderation.pack.decided import as_served
from moderation.pack.words import measure_words
from tests.pack_world import (
    BROKEN,
    CHAMPION,
    POLICIES,
    broken_evidence,
    first_evidence,
    good_evidence,
    known_contract,
)

HOSTILE = (
    "\"><script>alert(1)</script><img src=x onerror='alert(2)'>|`\n# *x* [y](http://z.example)"
)
VOID = {"meta", "img", "circle", "rect", "line", "path", "br"}
CONTRACT = known_contract()


class Page(HTMLParser):
    """What a browser would see: balanced tags, and everything that could fetch or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def assert_harmless(text: str) -> None:
    page = Page(text)
    assert page.open == []
    assert not page.tags & {"script", "iframe", "object", "link", "form"}
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href"):
            assert value.startswith(("data:image/jpeg;base64,", "#"))
    assert "url(" not in text
    assert "@import" not in text


def picture(side: int = 300) -> bytes:
    pixels = np.random.default_rng(side).integers(0, 255, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def pack_of(
    evidence: Evidence,
    folder: Path,
    *,
    profile: str = "standard",
    facts: dict[str, str] | None = None,
    thumbnail: Callable[[str], bytes | None] = lambda item: None,
) -> Pack:
    judgement = judge(evidence, CONTRACT, profile=profile, seed=1)
    return write_pack(judgement, evidence, CONTRACT, folder, facts=facts or {}, thumbnail=thumbnail)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return pack_of(
        broken_evidence(),
        tmp_path_factory.mktemp("broken"),
        facts={"code": "0c" * 20},
        thumbnail=lambda item: picture(),
    )


@pytest.fixture(scope="module")
def proposed(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return pack_of(good_evidence(), tmp_path_factory.mktemp("good"), profile="demo")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return pack_of(first_evidence(), tmp_path_factory.mktemp("first"), profile="demo")


@pytest.mark.parametrize("measure", sorted(MEASURES))
def test_every_measure_has_plain_words(measure: str) -> None:
    assert measure_words(measure) != measure.replace("_", " ")


def test_page_names_the_broken_language_when_blocked(broken: Pack) -> None:
    text = broken.index.read_text()
    top = text[: text.index('id="gates"')]
    assert "<h1>Blocked</h1>" in top
    assert f"language={BROKEN}" in top
    assert all(one.gate.id in text for one in load_record(broken.judgement).gates)


def test_page_proposes_when_every_gate_allows_it(proposed: Pack) -> None:
    text = proposed.index.read_text()
    assert "<h1>Proposed</h1>" in text
    assert "it beats the champion by" in text
    assert "Judged under the profile demo" in text
    assert f"tidegate gates promote {CHAMPION}" in text


def test_page_fetches_and_runs_nothing(broken: Pack, proposed: Pack, first: Pack) -> None:
    for pack in (broken, proposed, first):
        assert_harmless(pack.index.read_text())
        assert pack.index.stat().st_size <= MAX_HTML_BYTES


def test_changed_uploads_show_both_ways_with_pictures(broken: Pack) -> None:
    text = broken.index.read_text()
    part = text[text.index('id="changes"') : text.index('id="open"')]
    assert "More strictly" in part
    assert "More mildly" in part
    assert part.count("data:image/jpeg;base64,") > 2


def test_text_is_escaped_when_hostile(tmp_path: Path) -> None:
    good = good_evidence(num_golden=400)
    replay = good.sets["replay"]
    hostile = replace(
        replay,
        item_id=np.array([f"{HOSTILE}{row}" for row in range(replay.num_rows)]),
        slices={HOSTILE: np.full(replay.num_rows, HOSTILE)},
    )
    golden = replace(
        good.sets["golden"], slices=dict(good.sets["golden"].slices) | {HOSTILE: np.full(400, "x>")}
    )
    evidence = replace(
        good,
        sets=dict(good.sets) | {"replay": hostile, "golden": golden},
        missing={HOSTILE: HOSTILE},
        facts={HOSTILE: HOSTILE},
    )
    pack = pack_of(evidence, tmp_path, facts={"undo": HOSTILE, "contest": HOSTILE})
    assert_harmless(pack.index.read_text())
    for path in (pack.card, pack.summary):
        prose = re.sub(r"`[^`\n]*`", "", path.read_text())
        assert re.search(r"(?<!\\)<", prose) is None
        assert re.search(r"(?<!\\)\]\(", prose) is None
        assert "\n# *x*" not in path.read_text()


def test_page_drops_rows_and_says_so_when_too_large(tmp_path: Path) -> None:
    good = good_evidence(num_golden=600)
    golden = good.sets["golden"]
    many = {f"slice_{n}": golden.slices["category"] for n in range(300)}
    golden = replace(golden, slices=dict(golden.slices) | many)
    pack = pack_of(
        replace(good, sets=dict(good.sets) | {"golden": golden}),
        tmp_path,
        thumbnail=lambda item: picture(),
        facts={f"fact {n}": "x" * 300 for n in range(200)},
    )
    text = pack.index.read_text()
    assert len(text.encode()) <= MAX_HTML_BYTES
    assert "This page was shortened" in text
    assert_harmless(text)


def test_page_keeps_the_verdict_when_nothing_else_fits(tmp_path: Path) -> None:
    evidence = first_evidence()
    checks = (Check(Estimate("", None, None, 0), "no_data", "why", None, None),)
    gates = [
        GateResult(
            gate.model_copy(update={"why": "because " * 200}), "no_data", "why", True, checks
        )
        for gate in CONTRACT.gates * 30
    ]
    judgement = Judgement(tuple(gates), {}, ())
    pack = write_pack(
        judgement, evidence, CONTRACT, tmp_path, facts={}, thumbnail=lambda item: None
    )
    text = pack.index.read_text()
    assert len(text.encode()) <= MAX_HTML_BYTES
    assert "<h1>Blocked</h1>" in text
    assert "too many gates for one page" in text


def test_record_comes_back_as_it_was_written(broken: Pack) -> None:
    record = load_record(broken.judgement)
    assert record.state == "blocked"
    assert "not-worse-in-any-language" in [one.gate.id for one in record.blocking]
    worst = next(one for one in record.gates if one.gate.id == "not-worse-in-any-language").checks[
        0
    ]
    assert worst.state == "fail"
    assert BROKEN in worst.of
    assert "NaN" not in broken.judgement.read_text()


def test_record_has_no_number_where_nothing_bounds(tmp_path: Path) -> None:
    gate = CONTRACT.gates[1]
    spread = Resampled(0.5, np.full(300, np.nan))
    estimate = Estimate("", 0.5, spread, 10, detail={"a": float("nan"), "b": [np.int64(3)]})
    check = Check(estimate, "not_certified", "neither", -np.inf, np.inf)
    result = GateResult(gate, "not_certified", "neither", True, (check,))
    evidence = first_evidence()
    pack = write_pack(
        Judgement((result,), {}, ()),
        evidence,
        CONTRACT,
        tmp_path,
        facts={},
        thumbnail=lambda item: None,
    )
    (read,) = load_record(pack.judgement).gates[0].checks
    assert (read.low, read.high, read.detail) == (None, None, {"a": None, "b": [3]})
    assert "0.500 (unknown to unknown)" in pack.index.read_text()


@pytest.mark.parametrize("content", [None, "{}", '{"format": "tidegate.pack/9"}', "no json"])
def test_record_is_refused_when_damaged(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "judgement.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PermanentError, match="judge the candidate again"):
        load_record(path)


def test_page_says_why_when_parts_are_missing(first: Pack) -> None:
    text = first.index.read_text()
    assert text.count("Not measured: nothing was recorded yet") >= 3
    assert "First release." in text
    assert "there is no earlier one to go back to" in text


def test_page_says_so_when_a_score_is_no_number(tmp_path: Path) -> None:
    good = good_evidence(num_golden=400)

    def spoiled(answers: Answers) -> Answers:
        nothing_NP = np.full_like(answers.log_odds_NP, np.nan)
        return replace(answers, probability_NP=nothing_NP, log_odds_NP=nothing_NP)

    sets = {name: replace(one, candidate=spoiled(one.candidate)) for name, one in good.sets.items()}
    evidence = replace(good, sets=sets)
    results = [
        GateResult(gate, "no_data", "a score is no number", True, (_unmeasured(),))
        for gate in CONTRACT.gates
    ]
    pack = write_pack(
        Judgement(tuple(results), {}, ()),
        evidence,
        CONTRACT,
        tmp_path,
        facts={},
        thumbnail=lambda item: None,
    )
    assert pack.index.read_text().count("a score is no number") > 3
    assert "nan" not in pack.card.read_text()


def test_nothing_judged_is_blocked(tmp_path: Path) -> None:
    pack = write_pack(
        Judgement((), {}, ()),
        first_evidence(),
        CONTRACT,
        tmp_path,
        facts={},
        thumbnail=lambda item: None,
    )
    assert "no gate was judged" in pack.index.read_text()
    assert "no gate was judged" in pack.summary.read_text()


def test_summary_lists_each_gate_that_blocks(broken: Pack, proposed: Pack) -> None:
    record, text = load_record(broken.judgement), broken.summary.read_text()
    assert text.startswith("# Blocked\n")
    assert text.count("\n| ") - 1 == len(record.blocking)
    assert proposed.summary.read_text().startswith("# Proposed\n")


def test_card_takes_its_numbers_from_the_evidence(proposed: Pack) -> None:
    text, record = proposed.card.read_text(), load_record(proposed.judgement)
    golden = good_evidence().sets["golden"]
    for column, policy in enumerate(golden.policies):
        assert f"| golden | {policy} | 2,000 | {int(golden.truth_NP[:, column].sum()):,} |" in text
    precision = next(one for one in record.gates if one.gate.id == "golden-average-precision")
    assert all(f"{check.value:.3f} (" in text for check in precision.checks if check.value)
    assert "## What is not certified" in text
    assert "tier-suspend" in text
    assert f"`{record.contract_digest}`" in text


def test_card_says_first_release_when_there_is_no_champion(first: Pack) -> None:
    text = first.card.read_text()
    assert "there is no champion, so nothing was compared" in text
    assert "Not measured: nothing was recorded yet" in text


def test_picture_becomes_a_small_jpeg() -> None:
    url = data_url(picture(900))
    assert url is not None
    assert len(url) < 12_000
    assert data_url(b"<svg onload=alert(1)>") is None
    assert data_url(None) is None


def test_changes_are_listed_by_size_of_the_step() -> None:
    replay = broken_evidence().sets["replay"]
    milder = changes_of(replay, stronger=False, limit=50)
    assert milder
    steps = [one.before - one.after for one in milder]
    assert steps == sorted(steps, reverse=True)
    assert all(step > 0 for step in steps)
    assert all(one.after > one.before for one in changes_of(replay, stronger=True, limit=50))


def test_closed_tier_is_no_change_when_it_was_closed_before() -> None:
    evidence = broken_evidence()
    replay = evidence.sets["replay"]
    said = replace(replay.candidate, thresholds={policy: {"block": 0.9} for policy in POLICIES})
    recorded = replace(said, thresholds={policy: {"review": 0.9} for policy in POLICIES})
    same = replace(replay, candidate=said, champion=recorded)
    sets = {"replay": same, "traffic": replace(same, name="traffic")}
    assert changes_of(same, stronger=True, limit=50)
    served = as_served(replace(evidence, sets=sets), dict.fromkeys(POLICIES, "block"))
    assert not changes_of(served.sets["replay"], stronger=True, limit=50)
    assert as_served(replace(evidence, sets={}), {}).sets == {}


def _unmeasured() -> Check:
    estimate = Estimate("", None, None, 0, why_missing="a score is no number")
    return Check(estimate, "no_data", "a score is no number", None, None)
