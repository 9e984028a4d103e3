"""The release contract: every wrong field is told with its line, and nothing is let off silently."""

from pathlib import Path

import pytest

from moderation.errors import PolicyError
from moderation.gates import measures
from moderation.gates.judging import MEASURES
from moderation.release import load_release, parse_release
from tests.gate_world import CONTRACT

RAW = CONTRACT.read_bytes()


def test_contract_loads_with_its_digest() -> None:
    contract = load_release(CONTRACT)
    assert len(contract.digest) == 64
    assert contract.gate(contract.promotion.objective).versus == "champion"


def test_contract_names_known_measures_only() -> None:
    assert measures.__all__
    assert {gate.measure for gate in load_release(CONTRACT).gates} <= set(MEASURES)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"limit: 0.70", b"limit: high", "limit: Input should be a valid number"),
        (b"limit: 0.70", b"limit: .nan", "limit: Input should be a finite number"),
        (b"set: fresh", b"sett: fresh", "set: Field required"),
        (b"id: no-leak", b"id: better-on-golden", "two gates share one id"),
        (b"objective: better-on-golden", b"objective: nope", "nope is no gate"),
        (b"objective: better-on-golden", b"objective: no-leak", "superiority is a gate"),
        (b"but: [no-leak, better-on-golden]", b"but: [nope]", "no such gate: ['nope']"),
        (b"but: [no-leak, better-on-golden]", b"but: [no-leak]", "the objective better-on-golden"),
        (b"block_good: 0.05", b"block_good: 0", "block_good"),
        (b"min_groups: 10", b"min_groups: 1", "min_groups"),
        (b"uncertified: cap", b"uncertified: pass", "uncertified"),
        (b"  standard: {}", b"  other: {}", "profiles.standard: must be there"),
    ],
)
def test_contract_is_refused_with_its_line(old: bytes, new: bytes, said: str) -> None:
    assert old in RAW
    line = RAW[: RAW.index(old)].count(b"\n") + 1
    with pytest.raises(PolicyError) as caught:
        parse_release(RAW.replace(old, new, 1), "release.yaml")
    assert said in str(caught.value)
    told = [int(part.split(":")[1]) for part in str(caught.value).split("; ") if ".yaml:" in part]
    assert min(abs(number - line) for number in told) <= 6, (told, line)


def test_superiority_is_refused_without_a_champion() -> None:
    wrong = RAW.replace(b"versus: champion\n    comparator: more_than", b"comparator: more_than", 1)
    with pytest.raises(PolicyError, match="needs versus: champion"):
        parse_release(wrong, "release.yaml")


def test_profile_is_refused_when_it_lets_off_silently() -> None:
    begin = RAW.index(b"    says:")
    wrong = RAW[:begin] + RAW[RAW.index(b"    report_all_but") :]
    with pytest.raises(PolicyError, match="must say so"):
        parse_release(wrong, "release.yaml")


def test_demonstration_attacks_fewer_listings() -> None:
    contract = load_release(CONTRACT)
    suite = contract.profile("demo").suite
    assert suite is not None
    assert suite.violations_per_policy < contract.suite.violations_per_policy
    assert contract.profile("standard").suite is None


def test_contract_is_refused_when_it_is_no_mapping(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="a mapping"):
        parse_release(b"- 1", "x.yaml")
    with pytest.raises(PolicyError, match="cannot be read"):
        parse_release(b"a: [", "x.yaml")
    with pytest.raises(PolicyError, match="cannot be read"):
        load_release(tmp_path / "none.yaml")
