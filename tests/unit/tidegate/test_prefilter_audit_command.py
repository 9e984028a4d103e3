"""The command on a real ledger whose truth is known: a prefilter that keeps its floor, one that does not, no data."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from ledger.events import Event, from_decision, from_ground_truth, from_submission
from ledger.ledger import SqliteLedger
from moderation.clock import SystemClock
from moderation.decision import SignalStatus
from moderation.listing import GroundTruth, Listing, Submission, TruthSource
from moderation.policy import Tier, load_policies
from moderation.prefilter_audit import AuditedRecall
from moderation.release import load_release
from moderation.settings import settings
from moderation.stage_1 import Stage1, StageSignal
from serving.gateway.behaviour_stage import StageAnswer
from tests.decided import a_decision
from tests.gate_world import CONTRACT
from tidegate.app import app
from tidegate.console import console
from tidegate.prefilter_audit import EVASIVE, read_audited

RUNNER = CliRunner()
POLICIES = load_policies(Path("policies/marketplace.yaml"))
NOW = SystemClock().now()
SHARE = 0.5
FLOOR = 0.8
RULES = yaml.safe_load(CONTRACT.read_text())


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    RULES["serving"]["stage_1"]["behaviour"]["recall"] = FLOOR
    (tmp_path / "release.yaml").write_text(yaml.safe_dump(RULES))
    monkeypatch.setenv("TIDEGATE__HOME", str(tmp_path))
    monkeypatch.setenv("TIDEGATE__RELEASE_FILE", str(tmp_path / "release.yaml"))
    monkeypatch.setattr(console, "width", 200)
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


@pytest.fixture
def ledger(home: Path) -> SqliteLedger:
    return SqliteLedger(home / "ledger.sqlite")


def _upload(
    number: int,
    truth: dict[str, bool],
    *,
    scores_below: bool = False,
    days: float = 10,
    stage: StageAnswer | None = None,
    raised: tuple[StageSignal, ...] = (),
    **fields: Any,
) -> list[Event]:
    """Return an upload, its decision and its truth; of those below the threshold every second one is drawn."""
    name, at = f"u-{number}", NOW - timedelta(days=days)
    listing = Listing(listing_id=name, seller_id=f"s-{number}", title="a lamp", description="")
    submission = Submission(
        submission_id=name, listing=listing, submitted_at=at, attributes={"evasion": "leet"}
    )
    stage = stage or _said(scores_below=scores_below, is_drawn=number % 2 == 0)
    signals = (stage.signal(), *raised)
    decision = a_decision(name, at, stage_1=Stage1.of(signals, POLICIES, latency_ms=1.0))
    told = {"source": TruthSource.REVIEW, "propensity": 1.0} | fields
    return [
        from_submission(submission, recorded_at=at),
        from_decision(decision, recorded_at=at, seller_id=listing.seller_id),
        *(
            from_ground_truth(
                GroundTruth(
                    submission_id=name,
                    policy=policy,
                    violates=violates,
                    reviewed_at=at,
                    known_at=at,
                    **told,
                ),
                recorded_at=at,
                seller_id=listing.seller_id,
            )
            for policy, violates in truth.items()
        ),
    ]


def _said(
    *, scores_below: bool, is_drawn: bool = False, reason: str = "", score: float | None = 0.5
) -> StageAnswer:
    return StageAnswer(
        status=SignalStatus.OK if score is not None else SignalStatus.MISSING,
        score=score,
        lets_go=scores_below and not is_drawn,
        was_random=scores_below and is_drawn,
        random_share=SHARE,
        reason=reason,
        latency_ms=0.1,
        version="p1",
    )


def _world(missed: int) -> list[Event]:
    """Return 40 violations under each policy of which so many score below, and 80 innocent uploads, half below."""
    violating = [(policy, place) for policy in POLICIES.ids for place in range(40)]
    events: list[Event] = []
    for number, (policy, place) in enumerate(violating):
        events += _upload(number, {policy: True}, scores_below=place < missed)
    for number in range(len(violating), len(violating) + 80):
        events += _upload(number, dict.fromkeys(POLICIES.ids, False), scores_below=number % 4 < 2)
    return events


def _recalls(ledger: SqliteLedger, **window: Any) -> dict[str, AuditedRecall]:
    found = read_audited(ledger, POLICIES.ids, NOW, **window)
    rules = load_release(settings().release_file).serving.stage_1.behaviour
    return {one.of: one for one in found.recalls(POLICIES.ids, rules)}


def test_a_floor_that_holds_is_shown(ledger: SqliteLedger) -> None:
    ledger.append(_world(missed=0))
    shown = RUNNER.invoke(app, ["audit", "prefilter"])
    assert (shown.exit_code, "every floor is kept" in shown.output) == (0, True), shown.output
    for one in _recalls(ledger).values():
        assert (one.outcome, one.recall, one.missed, one.more) == ("shown", 1.0, 0, 0)


def test_a_floor_that_is_broken_ends_with_1(ledger: SqliteLedger) -> None:
    ledger.append(_world(missed=20))
    shown = RUNNER.invoke(app, ["audit", "prefilter"])
    assert (shown.exit_code, "a floor is broken" in shown.output) == (1, True), shown.output
    found = _recalls(ledger)
    for policy in POLICIES.ids:
        one = found[policy]
        # 20 of 40 go on; of the other 20 the draw showed 10, each of which stands for two.
        assert (one.outcome, one.missed) == ("broken", 10)
        assert one.recall == pytest.approx(0.5)
        assert one.upper is not None
        assert one.upper < FLOOR
        assert one.more is None, "no number of such uploads shows the floor"
    assert f"{10 * len(POLICIES.ids)} violations that it let go" in shown.output


def test_no_data_is_said_and_is_no_pass(ledger: SqliteLedger) -> None:
    empty = RUNNER.invoke(app, ["audit", "prefilter"])
    assert (empty.exit_code, empty.output.count("no data")) == (2, len(POLICIES.ids) + 1)
    ledger.append(_upload(1, dict.fromkeys(POLICIES.ids, False)))
    innocent = RUNNER.invoke(app, ["audit", "prefilter"])
    assert (innocent.exit_code, innocent.output.count("no data")) == (2, len(POLICIES.ids) + 1)
    assert "14 violations or more" in innocent.output, "0.8 ** 14 < 5 %"


def test_too_little_data_is_not_shown_and_says_how_much_is_missing(ledger: SqliteLedger) -> None:
    policy = POLICIES.ids[0]
    ledger.append([e for n in range(6) for e in _upload(n, {policy: True})])
    assert RUNNER.invoke(app, ["audit", "prefilter"]).exit_code == 2
    before = _recalls(ledger)[policy]
    assert (before.outcome, before.violations) == ("not shown", 6)
    assert before.more is not None
    more = range(6, 6 + before.more)
    ledger.append([e for n in more for e in _upload(n, {policy: True})])
    assert _recalls(ledger)[policy].outcome == "shown"


def test_only_what_an_open_prefilter_could_let_go_counts(ledger: SqliteLedger) -> None:
    policy = POLICIES.ids[0]
    word = StageSignal(name="patterns", policy=policy, status="ok", tier=Tier.REVIEW.label)
    closed = _said(scores_below=False, score=None, reason="closed for this bundle")
    new = _said(scores_below=False, score=None, reason="new seller")
    ledger.append(
        [
            *_upload(0, {policy: True}, scores_below=True, raised=(word,)),
            *_upload(1, {policy: True}, scores_below=True, raised=(word,)),
            *_upload(2, {policy: True}, stage=closed),
            *_upload(3, {policy: True}, stage=new),
            *_upload(4, {policy: True}, scores_below=True, days=1),
            *_upload(6, {policy: True}, scores_below=True, days=100),
            *_upload(8, {policy: True}, scores_below=True, source="audit", propensity=0.1),
        ]
    )
    broken = StageSignal(name="banks", status="error", reason="damaged")
    for number, below in ((9, False), (10, True), (11, False)):
        ledger.append(_upload(number, {policy: True}, scores_below=below, raised=(broken,)))
    one = _recalls(ledger, since=NOW - timedelta(days=50))[policy]
    assert (one.rows, one.missed) == (4, 1), "raised twice, one new seller, one drawn and audited"
    assert one.recall == pytest.approx(3 / (3 + 1 / (SHARE * 0.1)))
    assert _recalls(ledger)[EVASIVE].missed == 2, "the one of 100 days ago too"
