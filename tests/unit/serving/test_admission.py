"""Whether a predictor may serve a bundle: what was stated under the contract in force decides, the newest of it."""

import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest

from components.home import Home
from moderation import attestation
from moderation.attestation import GATES, Attestation, Statement, Verdict, require_passing
from moderation.bundle import Bundle
from moderation.clock import SimulatedClock
from moderation.errors import GateRejected
from serving.predictor.admission import admit
from tests.judged import BAD, contract, judged

IN_FORCE, LAX, STRICT = contract().digest, "1" * 64, "2" * 64
CHAMPION, OTHER = "c" * 64, "d" * 64
PASS = Verdict(gate="ranks", verdict="pass", reason="0.9")
FAIL = Verdict(gate="ranks", verdict="fail", reason="0.2")


class Record:
    """The record of a bundle that a test writes one statement at a time."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.clock = bundle, SimulatedClock(datetime(2026, 5, 1, tzinfo=UTC))

    def say(
        self,
        verdict: Verdict,
        under: str = IN_FORCE,
        *,
        beside: str | None = None,
        profile: str = "standard",
    ) -> Attestation:
        """Append a statement of the gates, a minute after the one before."""
        statement = Statement(
            kind=GATES,
            contract=under,
            sets={},
            verdicts=(verdict,),
            champion=beside,
            profile=profile,
        )
        self.clock.advance(60)
        return attestation.append(self.bundle, statement, clock=self.clock, tool="tests")

    def admitted(self, accepts: str = "standard") -> Attestation | None:
        """Return what a predictor stands on under the contract in force."""
        return admit(self.bundle, IN_FORCE, accepts=accepts)


@pytest.fixture
def record(tiny_bundle: Bundle, bundle_copy: Path) -> Record:
    return Record(Bundle(bundle_copy, tiny_bundle.digest, tiny_bundle.manifest))


def test_a_pass_under_another_contract_hides_no_block_under_the_one_in_force(
    record: Record,
) -> None:
    record.say(FAIL, beside=CHAMPION)
    record.say(PASS, LAX)
    record.say(PASS, LAX, beside=CHAMPION)
    with pytest.raises(GateRejected, match="was blocked on .* beside the champion cccc.* by ranks"):
        record.admitted()
    passed = record.say(PASS, beside=CHAMPION)
    record.say(FAIL, STRICT)
    assert record.admitted() == passed, "nor does a block under another one take a pass away"


def test_another_contract_counts_only_where_nothing_was_said_under_the_one_in_force(
    record: Record, caplog: pytest.LogCaptureFixture
) -> None:
    record.say(FAIL, STRICT)
    passed = record.say(PASS, LAX)
    with caplog.at_level(logging.WARNING):
        assert record.admitted() == passed
    assert "under another contract than the one in force" in caplog.text
    with pytest.raises(GateRejected, match="under the contract 1111.*, not under the one in force"):
        require_passing(record.bundle, IN_FORCE)
    record.say(FAIL, LAX)
    with pytest.raises(GateRejected, match="was blocked"):
        record.admitted()
    record.say(PASS, LAX)
    record.say(FAIL)
    with pytest.raises(GateRejected, match="was blocked"):
        record.admitted()


def test_absolute_gates_alone_do_not_undo_a_lost_comparison(record: Record) -> None:
    record.say(PASS)
    record.say(FAIL, beside=CHAMPION)
    record.say(PASS)
    for ask in (record.admitted, lambda: require_passing(record.bundle, IN_FORCE)):
        with pytest.raises(
            GateRejected,
            match="by ranks; attestations/ beside .*`--champion none` does not undo it",
        ):
            ask()
    won = record.say(PASS, beside=OTHER)
    assert record.admitted() == won
    later = record.say(PASS)
    assert record.admitted() == later, "the comparison that was won last is not lost"
    record.say(FAIL)
    with pytest.raises(GateRejected, match="was blocked on"):
        record.admitted()


def test_a_comparison_lost_under_another_contract_holds_where_that_one_counts(
    record: Record,
) -> None:
    record.say(FAIL, LAX, beside=CHAMPION)
    record.say(PASS, LAX)
    with pytest.raises(GateRejected, match="beside the champion"):
        record.admitted()
    passed = record.say(PASS)
    assert record.admitted() == passed


def test_a_weaker_profile_wins_back_no_comparison_where_it_does_not_count(record: Record) -> None:
    record.say(FAIL, beside=CHAMPION)
    won = record.say(PASS, beside=CHAMPION, profile="lenient")
    assert record.admitted("lenient") == won
    record.say(PASS)
    with pytest.raises(GateRejected, match="beside the champion"):
        record.admitted()
    record.say(FAIL, beside=CHAMPION, profile="lenient")
    for accepts in ("standard", "lenient"):
        with pytest.raises(GateRejected, match="beside the champion"):
            record.admitted(accepts)


def test_what_the_gates_themselves_say_is_what_counts(tiny_bundle: Bundle, tmp_path: Path) -> None:
    home = Home(tmp_path)
    judged(tiny_bundle, home, separation=BAD, champion=CHAMPION)
    judged(tiny_bundle, home)
    kept = Bundle.open(home.bundles / tiny_bundle.digest)
    with pytest.raises(GateRejected, match="beside the champion cccccccccccc by ranks, better"):
        admit(kept, IN_FORCE, accepts="standard")
    judged(tiny_bundle, home, champion=CHAMPION)
    said = admit(kept, IN_FORCE, accepts="standard")
    assert said is not None
    assert said.champion == CHAMPION
