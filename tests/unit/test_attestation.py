"""Attestations: bound to one bundle, appended and never changed, and the newest decides."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from moderation import attestation as attestations
from moderation.attestation import Statement, Verdict
from moderation.bundle import Bundle
from moderation.clock import SimulatedClock
from moderation.errors import BundleRejected, PermanentError

CONTRACT = "c" * 64
OTHER_CONTRACT = "d" * 64
PASS = Verdict(gate="golden_ap", verdict="pass", reason="0.91 >= 0.9")
FAIL = Verdict(gate="golden_ap", verdict="fail", reason="0.2 < 0.9")


@pytest.fixture
def bundle(tiny_bundle: Bundle, bundle_copy: Path) -> Bundle:
    return Bundle(bundle_copy, tiny_bundle.digest, tiny_bundle.manifest)


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(datetime(2026, 5, 1, 12, tzinfo=UTC))


def _say(
    bundle: Bundle, clock: SimulatedClock, *verdicts: Verdict, contract: str = CONTRACT
) -> attestations.Attestation:
    statement = Statement(
        kind="gates",
        contract=contract,
        sets={"test": "e" * 64},
        verdicts=verdicts,
        metrics={"weapons/ap": 0.91, "spam/ap": None},
    )
    said = attestations.append(bundle, statement, clock=clock, tool="tests 1")
    clock.advance(60)
    return said


def test_attestation_reads_back_when_appended(bundle: Bundle, clock: SimulatedClock) -> None:
    said = _say(bundle, clock, PASS)
    assert attestations.read(bundle) == [said]
    assert said.bundle == bundle.digest
    assert said.created_at == datetime(2026, 5, 1, 12, tzinfo=UTC)


def test_attestation_leaves_bundle_digest_alone(bundle: Bundle, clock: SimulatedClock) -> None:
    _say(bundle, clock, PASS)
    assert Bundle.open(bundle.folder).digest == bundle.digest


def test_same_statement_is_kept_once(bundle: Bundle, clock: SimulatedClock) -> None:
    statement = Statement(kind="gates", contract=CONTRACT, sets={}, verdicts=(PASS,))
    for _ in range(2):
        attestations.append(bundle, statement, clock=clock, tool="tests 1")
    assert len(attestations.read(bundle)) == 1


@pytest.mark.parametrize(
    ("verdicts", "is_passing"),
    [
        ((), False),
        ((PASS,), True),
        ((PASS, FAIL), False),
        ((PASS, FAIL.model_copy(update={"blocking": False})), True),
        ((FAIL.model_copy(update={"blocking": False}),), False),
        ((PASS.model_copy(update={"verdict": "no_data"}),), False),
        ((PASS.model_copy(update={"verdict": "inconclusive"}),), False),
        ((PASS.model_copy(update={"verdict": "not_certified"}),), False),
    ],
)
def test_attestation_passes_only_when_no_gate_blocks(
    bundle: Bundle, clock: SimulatedClock, verdicts: tuple[Verdict, ...], is_passing: bool
) -> None:
    said = _say(bundle, clock, *verdicts)
    assert said.is_passing is is_passing
    assert attestations.latest_passing(bundle) == (said if is_passing else None)


def test_newest_judgement_decides(bundle: Bundle, clock: SimulatedClock) -> None:
    assert attestations.latest_passing(bundle) is None
    first = _say(bundle, clock, PASS)
    _say(bundle, clock)  # an evaluation without verdicts judges nothing
    assert attestations.latest_passing(bundle) == first
    _say(bundle, clock, FAIL)
    assert attestations.latest_passing(bundle) is None
    last = _say(bundle, clock, PASS)
    assert attestations.latest_passing(bundle) == last


def test_other_contract_does_not_pass(bundle: Bundle, clock: SimulatedClock) -> None:
    said = _say(bundle, clock, PASS, contract=OTHER_CONTRACT)
    assert attestations.latest_passing(bundle, contract=CONTRACT) is None
    assert attestations.latest_passing(bundle, contract=OTHER_CONTRACT) == said


def test_attestation_is_refused_when_edited(bundle: Bundle, clock: SimulatedClock) -> None:
    _say(bundle, clock, FAIL)
    (path,) = (bundle.folder / "attestations").iterdir()
    path.write_text(path.read_text().replace('"fail"', '"pass"'))
    with pytest.raises(BundleRejected, match="attestations/.*was altered"):
        attestations.latest_passing(bundle)


def test_attestation_is_refused_when_of_another_bundle(
    bundle: Bundle, clock: SimulatedClock
) -> None:
    _say(bundle, clock, PASS)
    other = Bundle(bundle.folder, "0" * 64, bundle.manifest)
    with pytest.raises(BundleRejected, match="is about bundle"):
        attestations.latest_passing(other)


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"attestation": {}, "sha256": "x"}'])
def test_attestation_is_refused_when_malformed(bundle: Bundle, content: str) -> None:
    folder = bundle.folder / "attestations"
    folder.mkdir()
    (folder / "one.json").write_text(content)
    with pytest.raises(BundleRejected, match=r"attestations/one\.json"):
        attestations.read(bundle)


def test_attestation_with_unknown_field_is_refused(bundle: Bundle, clock: SimulatedClock) -> None:
    _say(bundle, clock, PASS)
    (path,) = (bundle.folder / "attestations").iterdir()
    content = json.loads(path.read_text())["attestation"] | {"more": 1}
    from moderation.bundle_files import digest_of

    path.write_text(json.dumps({"attestation": content, "sha256": digest_of(content)}))
    with pytest.raises(BundleRejected, match="more: Extra inputs"):
        attestations.read(bundle)


def test_append_is_refused_when_clock_went_back(bundle: Bundle, clock: SimulatedClock) -> None:
    _say(bundle, clock, PASS)
    earlier = SimulatedClock(datetime(2026, 4, 1, tzinfo=UTC))
    with pytest.raises(PermanentError, match="set the clock"):
        _say(bundle, earlier, PASS)


def test_append_names_remedy_when_folder_is_no_folder(
    bundle: Bundle, clock: SimulatedClock, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    statement = Statement(kind="gates", contract=CONTRACT, sets={}, verdicts=(PASS,))
    with pytest.raises(PermanentError, match="name another folder"):
        attestations.append(
            bundle, statement, clock=clock, tool="t", folder=tmp_path / "file" / "below"
        )


def test_attestations_lie_elsewhere_when_asked(
    bundle: Bundle, clock: SimulatedClock, tmp_path: Path
) -> None:
    statement = Statement(kind="gates", contract=CONTRACT, sets={}, verdicts=(PASS,))
    folder = tmp_path / "elsewhere"
    said = attestations.append(bundle, statement, clock=clock, tool="t", folder=folder)
    assert attestations.read(bundle) == []
    assert attestations.latest_passing(bundle, folder=folder) == said
