"""The release contract: every wrong field is told with its line, and nothing is let off silently."""

from pathlib import Path

import pytest

from components.contract import read_contract
from moderation.errors import PolicyError
from moderation.gates import measures
from moderation.gates.judging import MEASURES
from moderation.release import load_release, parse_release
from moderation.settings import Settings
from tests.gate_world import CONTRACT
from tidegate.releasing import contract_of

RAW = CONTRACT.read_bytes()


def test_contract_loads_with_its_digest() -> None:
    contract = load_release(CONTRACT)
    assert len(contract.digest) == 64
    assert contract.gate(contract.promotion.objective).versus == "champion"


def test_contract_names_known_measures_only() -> None:
    assert read_contract(RAW.decode()).digest == load_release(CONTRACT).digest
    assert set(measures.READS) == set(MEASURES), "of each it is said what sets it reads"


@pytest.mark.parametrize(
    ("old", "new", "wrong", "said"),
    [
        (
            "measure: leaked_items",
            "measure: leaked_itemz",
            "measure",
            "nothing measures leaked_itemz",
        ),
        (
            "set: golden",
            "set: traffic",
            "set",
            "leaked_items cannot be taken of traffic, but of golden",
        ),
        (
            "slices: [language]",
            "slices: [langauge]",
            "slices",
            "there is no slice langauge; there are",
        ),
        ("slices: [evasive]", "slices: [brand]", "slices", "there is no slice brand"),
        (
            "tier: block\n",
            "tier: block\n    slices: [language]\n",
            "slices",
            "recall_at_precision does not read slices: the gate would judge without it",
        ),
        (
            "measure: recall_at_precision\n    set: golden\n    tier: block\n",
            "measure: recall_at_precision\n    set: golden\n",
            "measure",
            "recall_at_precision needs tier",
        ),
        (
            "measure: tier_precision\n",
            "measure: tier_precision\n    versus: champion\n",
            "versus",
            "tier_precision does not read versus",
        ),
        (
            "measure: leaked_items\n",
            "measure: leaked_items\n    versus: champion\n",
            "versus",
            "leaked_items does not read versus",
        ),
        (
            "tier: block\n",
            "tier: block\n    uncertified: cap\n",
            "uncertified",
            "recall_at_precision does not read cap",
        ),
        (
            "measure: latency_p99_ratio\n    set: costs\n    versus: champion\n",
            "measure: latency_p99_ratio\n    set: costs\n",
            "measure",
            "latency_p99_ratio needs versus: champion",
        ),
        ("limit: 0.70", "limit: 0.0", "limit", "average_precision is never below 0: the gate coul"),
        ("limit: -0.05", "limit: -1.0", "limit", "average_precision is never below -1"),
        ("limit: 0.15", "limit: 1.0", "limit", "true_positive_gap is never above 1"),
        ("limit: 0.50 # what", "limit: 1.5 # what", "limit", "decisions_weaker is never above"),
        ("limit: 0.99", "limit: -5", "limit", "tier_precision is never below -5"),
    ],
)
def test_contract_is_refused_when_nobody_measures_it(
    old: str, new: str, wrong: str, said: str
) -> None:
    text = RAW.decode()
    assert old in text
    line = (text[: text.index(old)] + new[: new.index(wrong)]).count("\n") + 1
    with pytest.raises(PolicyError, match=rf"my.yaml:{line}: gates\.\d+\.{wrong}: {said}"):
        read_contract(text.replace(old, new, 1), "my.yaml")


def test_contract_may_slice_by_an_attribute_that_it_declares() -> None:
    text = RAW.decode().replace("attributes: []", "attributes: [brand]")
    assert read_contract(text.replace("slices: [evasive]", "slices: [brand]", 1)).slices.attributes


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"limit: 0.70", b"limit: 0.70\n    limit: 0.0", "gates.1.limit: is said twice"),
        (b"capacity:", b"suite: {}\ncapacity:", "suite: is said twice"),
        (b"limit: 0.70", b"limit: true", "gates.1.limit: Input should be a valid number"),
        (b"limit: 0.70", b"limit: '0.7'", "gates.1.limit: Input should be a valid number"),
        (
            b"min_positives: 150",
            b"min_positives: '150'",
            "min_positives: Input should be a valid i",
        ),
        (
            b"min_positives: 150",
            b"min_positives: 150.0",
            "min_positives: Input should be a valid i",
        ),
        (b"block_good: 0.05", b"block_good: '.05'", "block_good: Input should be a valid number"),
        (b"[3, 14]", b"[3, '14']", "seller_age_days.1: Input should be a valid number"),
        (b"max_looks: 50", b"max_looks: true", "max_looks: Input should be a valid integer"),
    ],
)
def test_contract_is_refused_when_a_number_is_unclear(old: bytes, new: bytes, said: str) -> None:
    with pytest.raises(PolicyError, match=r"^release\.yaml:\d+: ") as caught:
        parse_release(RAW.replace(old, new, 1), "release.yaml")
    assert said in str(caught.value)


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


def test_file_with_an_unknown_measure_is_refused_by_commands(tmp_path: Path) -> None:
    path = tmp_path / "release.yaml"
    path.write_bytes(RAW.replace(b"measure: leaked_items", b"measure: leaked_item"))
    with pytest.raises(PolicyError, match=r"release.yaml:\d+: .*nothing measures leaked_item"):
        contract_of(Settings(release_file=path))


def test_stranger_is_told_in_the_field_that_names_it() -> None:
    old = RAW[RAW.index(b"data_needed:") :].partition(b"\n")[0]
    with pytest.raises(PolicyError, match=r"profiles.demo.data_needed: no such gate: \['nobody'\]"):
        parse_release(RAW.replace(old, b"data_needed: [nobody]"), "release.yaml")
