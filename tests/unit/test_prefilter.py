"""Stage 1: cheapest first, a known image decides, patterns are a floor, and missing is never "nothing found"."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from moderation.bank_versions import BankVersions
from moderation.banks import Banks
from moderation.clock import SimulatedClock
from moderation.image import hash_view, pdq
from moderation.pattern_book import PatternBook
from moderation.policy import load_policies
from moderation.prefilter import NOT_ASKED, Incoming, Prefilter, Stage
from moderation.serving_rules import BankRules
from moderation.stage_1 import Stage1, StageSignal, is_decisive
from moderation.stages import MAX_SHOWN, BankStage, PatternStage
from tests.bank_world import Hash, apart, entries_file, entry, good
from tests.pictures import a_picture

CLOCK = SimulatedClock(datetime(2026, 11, 22, tzinfo=UTC))
FILE = load_policies(Path("policies/marketplace.yaml"))
RULES = BankRules(tier="block", contested="review")


def incoming(*views: Image.Image, title: str = "a blue bicycle") -> Incoming:
    return Incoming("u1", title, "", views)


@dataclass
class Said:
    """A stage that says what a test sets."""

    name: str
    cost: float
    signals: Sequence[StageSignal] = ()
    error: Exception | None = None
    asked: list[str] = field(default_factory=list)

    def look(self, upload: Incoming) -> Sequence[StageSignal]:
        self.asked.append(upload.submission_id)
        if self.error:
            raise self.error
        return self.signals or [StageSignal(name=self.name, status="ok")]


def signal(name: str = "x", **fields: Any) -> StageSignal:
    return StageSignal.model_validate({"name": name, "status": "ok"} | fields)


def ran(*stages: Stage, **upload: Any) -> Stage1:
    return Prefilter(stages, CLOCK).look(incoming(**upload)).concluded(FILE)


def banked(tmp_path: Path, *rows: dict[str, Any]) -> BankStage:
    versions = BankVersions(tmp_path / "banks", CLOCK)
    path = entries_file(tmp_path / "entries.jsonl", rows)
    versions.activate(versions.build(path, [*FILE.ids, "retired"]))
    banks = Banks(versions, CLOCK)
    assert banks.refresh()
    return BankStage(banks, RULES, FILE.ids)


def hash_of(image: Image.Image) -> Hash:
    hash_4, quality = pdq(image)
    assert quality >= 50
    return hash_4


def test_cheaper_stages_come_first_and_tell_what_they_took() -> None:
    dear, cheap = Said("dear", 9.0), Said("cheap", 0.1)
    found = ran(dear, cheap)
    assert [(one.name, one.cost) for one in found.signals] == [("cheap", 0.1), ("dear", 9.0)]
    assert (found.is_decisive, found.tier, found.reason_codes) == (False, "allow", ())


def test_who_decides_spares_the_dearer_ones() -> None:
    decides = signal("cheap", policy="spam", tier="block", is_decisive=True)
    dear = Said("dear", 9.0)
    found = ran(Said("cheap", 0.1, [decides]), dear)
    assert (found.is_decisive, found.tier, found.reason_codes) == (True, "block", ("SPAM_OR_SCAM",))
    assert dear.asked == []
    assert (found.signals[1].status, found.signals[1].reason) == ("missing", NOT_ASKED)


@pytest.mark.parametrize(
    ("tier", "is_let_go"), [("allow", True), ("tag", False), ("review", False)]
)
def test_an_upload_is_let_go_only_where_nothing_raises_it(tier: str, is_let_go: bool) -> None:
    lets_go = Said("behaviour", 0.3, [signal("behaviour", is_decisive=True)])
    dear = Said("banks", 9.0, [signal("banks", policy="spam", tier=tier)])
    found = ran(lets_go, dear)
    assert dear.asked == ["u1"], "a dearer stage may still raise it"
    assert (found.is_decisive, found.tier) == (is_let_go, tier)


def test_a_stage_that_fails_is_an_error_and_the_rest_is_asked() -> None:
    found = ran(Said("broken", 0.1, error=RuntimeError("no disk")), Said("next", 1.0))
    assert [one.status for one in found.signals] == ["error", "ok"]
    assert found.errors() == ("broken: RuntimeError: no disk",)
    assert not found.is_decisive


@pytest.mark.parametrize("broken", ["patterns", "banks", "duplicates"])
def test_nothing_is_let_go_where_a_stage_failed(broken: str) -> None:
    lets_go = signal("behaviour", is_decisive=True, value=-5.0)
    fails = Said(broken, 9.0, error=RuntimeError("no disk"))
    found = ran(Said("behaviour", 0.3, [lets_go]), fails, Said("other", 20.0))
    assert (found.is_decisive, found.tier) == (False, "allow")
    said = found.signals[0]
    assert (said.is_decisive, said.value, said.status) == (False, -5.0, "ok")
    assert said.reason == f"lets nothing go: {broken} failed"
    assert Stage1.of(found.signals, FILE, latency_ms=found.latency_ms) == found, "it replays"


def test_an_error_that_was_met_before_the_stages_ran_lets_nothing_go() -> None:
    before = [
        signal("duplicates", status="error", reason="the ledger cannot be read"),
        signal("behaviour", is_decisive=True),
    ]
    found = Prefilter([Said("patterns", 0.1)], CLOCK).look(incoming()).concluded(FILE, before)
    assert not found.is_decisive


def test_what_is_missing_is_no_error_and_what_raises_decides_all_the_same() -> None:
    lets_go = Said("behaviour", 0.3, [signal("behaviour", is_decisive=True)])
    missing = Said("banks", 9.0, [signal("banks", status="missing", reason="no_image")])
    assert ran(lets_go, missing).is_decisive
    known_bad = Said("banks", 9.0, [signal(policy="spam", tier="block", is_decisive=True)])
    found = ran(lets_go, Said("patterns", 1.0, error=RuntimeError("broken")), known_bad)
    assert (found.is_decisive, found.tier) == (True, "block")


@pytest.mark.parametrize("status", ["missing", "error"])
@pytest.mark.parametrize("claim", [{"tier": "review", "policy": "spam"}, {"is_decisive": True}])
def test_what_was_not_measured_says_nothing(status: str, claim: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="cannot decide or raise"):
        signal(status=status, **claim)


def test_a_raised_tier_needs_its_policy() -> None:
    with pytest.raises(ValidationError, match="names no policy"):
        signal(tier="review")


def test_a_decision_needs_more_than_a_floor() -> None:
    floor = signal(policy="spam", tier="review")
    assert not is_decisive([floor])
    assert is_decisive([floor, signal(policy="spam", tier="tag", is_decisive=True)])


def test_a_known_bad_image_decides(tmp_path: Path) -> None:
    bad = a_picture(1)
    stage = banked(tmp_path, entry("gun-1", apart(hash_of(bad), 5)))
    found = Prefilter([stage], CLOCK).look(incoming(a_picture(2), bad)).concluded(FILE)
    assert (found.is_decisive, found.tier) == (True, "block")
    assert found.reason_codes == ("WEAPONS_PROHIBITED",)
    first, second = found.signals
    assert (first.status, first.tier, first.found) == ("ok", "allow", ({"image": 0},))
    assert (second.policy, second.value) == ("weapons", 5.0)
    assert second.found[0] == {
        "image": 1,
        "entry": "gun-1",
        "bank": "guns",
        "kind": "match",
        "policy": "weapons",
        "distance": 5,
    }
    assert found.version_of("banks") == second.version


@pytest.mark.parametrize(
    ("good_at", "reason", "tier"),
    [(8, "contested", "review"), (0, "contested", "review"), (None, "", "block")],
)
def test_a_contested_image_is_a_floor(
    tmp_path: Path, good_at: int | None, reason: str, tier: str
) -> None:
    seen = hash_of(a_picture(1))
    rows = [entry("gun-1", apart(seen, 6))]
    if good_at is not None:
        rows.append(good("drill", apart(seen, good_at), policy="*"))
    found = Prefilter([banked(tmp_path, *rows)], CLOCK).look(incoming(a_picture(1))).concluded(FILE)
    assert (found.signals[0].reason, found.tier) == (reason, tier)
    assert found.is_decisive == (tier == "block")


def test_a_known_good_image_silences(tmp_path: Path) -> None:
    seen = hash_of(a_picture(1))
    stage = banked(tmp_path, entry("gun-1", apart(seen, 20)), good("drill", apart(seen, 2)))
    found = Prefilter([stage], CLOCK).look(incoming(a_picture(1))).concluded(FILE)
    assert (found.is_decisive, found.tier, found.signals[0].reason) == (False, "allow", "silenced")
    assert {one["entry"] for one in found.signals[0].found} == {"gun-1"} | {"drill"}


def test_a_match_under_a_policy_that_is_gone_is_an_error(tmp_path: Path) -> None:
    stage = banked(tmp_path, entry("old", hash_of(a_picture(1)), policy="retired"))
    found = Prefilter([stage], CLOCK).look(incoming(a_picture(1))).concluded(FILE)
    assert found.errors() == ("banks: policy retired is not in force",)
    assert (found.is_decisive, found.tier) == (False, "allow")


def test_what_the_banks_cannot_say_is_missing(tmp_path: Path) -> None:
    empty = BankStage(Banks(BankVersions(tmp_path / "no", CLOCK), CLOCK), RULES, FILE.ids)
    stage = banked(tmp_path, entry("gun-1", hash_of(a_picture(1))))
    flat = Image.new("RGB", (200, 200), "teal")
    for asked, upload, reason in (
        (empty, incoming(a_picture(1)), "no_active_version"),
        (stage, incoming(), "no_image"),
        (stage, incoming(flat), "low_quality"),
    ):
        [said] = asked.look(upload)
        assert (said.status, said.reason, said.tier) == ("missing", reason, "allow")


def test_damaged_banks_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "banks").mkdir()
    (tmp_path / "banks" / "ACTIVE").write_text("{")
    banks = Banks(BankVersions(tmp_path / "banks", CLOCK), CLOCK)
    banks.refresh()
    [said] = BankStage(banks, RULES, FILE.ids).look(incoming(a_picture(1)))
    assert said.status == "error"
    assert "activate a version again" in said.reason


def test_patterns_are_floors_by_policy() -> None:
    book = PatternBook(Path("policies/patterns.yaml"), FILE.ids, CLOCK)
    title = "bag without authenticity card, AAA replica, western union only"
    found = ran(PatternStage(book), title=title)
    said = {one.policy: (one.tier, len(one.found)) for one in found.signals}
    assert said == {"counterfeit": ("review", 2), "spam": ("review", 1)}
    assert (found.is_decisive, found.tier) == (False, "review")
    hit = next(one for one in found.signals if one.policy == "spam").found[0]
    assert title[int(hit["begin"]) : int(hit["end"])] == "western union only"
    assert found.version_of("patterns") == book.version


def test_evidence_of_patterns_is_bounded() -> None:
    book = PatternBook(Path("policies/patterns.yaml"), FILE.ids, CLOCK)
    upload = Incoming("u1", "", "western union only. " * 500, ())
    [said] = PatternStage(book).look(upload)
    assert said.reason == "cut"
    assert len(said.found) <= MAX_SHOWN


def test_text_and_patterns_that_are_not_there_are_missing() -> None:
    book = PatternBook(Path("policies/patterns.yaml"), FILE.ids, CLOCK)
    for stage, title, reason in (
        (PatternStage(book), "", "no_text"),
        (PatternStage(PatternBook(None, FILE.ids, CLOCK)), "a gun", "no_pattern_file"),
    ):
        [said] = stage.look(incoming(title=title))
        assert (said.status, said.reason) == ("missing", reason)


@pytest.mark.parametrize("size", [(300, 240), (1400, 900), (513, 20)])
def test_the_hash_of_a_view_is_that_of_the_image(size: tuple[int, int]) -> None:
    image = a_picture(3, size)
    view = hash_view(image)
    assert max(view.size) <= 512
    assert (pdq(view)[0] == pdq(image)[0]).all()
    assert pdq(view)[1] == pdq(image)[1]
