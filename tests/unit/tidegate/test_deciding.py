"""What a person sees of one decision: who took it, and what stage 1 said."""

import io
from typing import Any

import pytest
from rich.console import Console

from tidegate import console, deciding
from tidegate.deciding import Answered, Listed, show_decisions, show_stage_1


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    wide = Console(file=stream, width=200)
    monkeypatch.setattr(console, "console", wide)
    monkeypatch.setattr(deciding, "console", wide)
    return stream


def _answered(**evidence: Any) -> Answered:
    reasons = [{"code": "WEAPONS_PROHIBITED", "message": "no weapons"}]
    content = {"tier": "block", "reasons": reasons, "evidence": {"attempts": []} | evidence}
    return Answered(content, 3.0)


def test_a_decision_of_stage_1_says_so(printed: io.StringIO) -> None:
    answered = _answered(decided_by="stage_1")
    show_decisions([(Listed({"title": "a drill"}), answered)], with_truth=False)
    assert "WEAPONS_PROHIBITED · decided by stage 1" in printed.getvalue()


def test_a_decision_of_the_model_needs_no_word(printed: io.StringIO) -> None:
    show_decisions([(Listed({"title": "a drill"}), _answered(decided_by="model"))])
    assert "decided by" not in printed.getvalue()


def test_signals_of_stage_1_are_shown_with_what_was_found(printed: io.StringIO) -> None:
    signals: list[dict[str, Any]] = [
        {"name": "patterns", "status": "ok", "reason": "", "policy": None, "tier": "allow"},
        {"name": "banks", "status": "ok", "reason": "contested", "policy": "weapons"},
    ]
    signals[1] |= {"tier": "review", "found": [{"image": 0, "entry": "gun-1"}]}
    show_stage_1(_answered(stage_1={"signals": [{"found": []} | one for one in signals]}))
    assert printed.getvalue().splitlines() == [
        "  patterns ok",
        "  banks ok contested weapons review at least  {'image': 0, 'entry': 'gun-1'}",
    ]


def test_who_may_not_see_evidence_sees_none(printed: io.StringIO) -> None:
    answered = Answered({"tier": "allow", "reasons": []}, 1.0)
    show_stage_1(answered)
    assert (printed.getvalue(), answered.decided_by) == ("", "")
