"""Policy files: what loads, and each way in which one does not."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from moderation.errors import PolicyError
from moderation.policy import Tier, load_policies

ROOT = Path(__file__).parents[2]
TIERS = {
    "tag": {"precision": 0.1},
    "review": {"precision": 0.2, "max_share": 0.02},
    "block": {"precision": 0.9},
    "suspend": {"precision": 0.99},
}


def policy(**changes: Any) -> dict[str, Any]:
    fields = {
        "id": "weapons",
        "title": "Weapons",
        "reason_code": "WEAPONS_PROHIBITED",
        "seller_message": "No weapons here.",
        "tiers": TIERS,
    }
    return fields | changes


def content(**changes: Any) -> dict[str, Any]:
    fields = {
        "version": "1",
        "on_failure": "allow_and_review",
        "confidence": 0.95,
        "policies": [policy()],
    }
    return fields | changes


def override(**changes: Any) -> dict[str, Any]:
    fields = {
        "policy": "weapons",
        "tier": "block",
        "threshold": 0.9,
        "reason": "wave of toys",
        "by": "mk",
        "until": "2026-12-01T00:00:00Z",
    }
    return fields | changes


def write(folder: Path, value: Any) -> Path:
    path = folder / "policies.yaml"
    path.write_text(value if isinstance(value, str) else yaml.safe_dump(value), "utf-8")
    return path


@pytest.mark.parametrize(
    "name", ["policies/marketplace.yaml", "examples/grocery_store/policies.yaml"]
)
def test_shipped_policies_load(name: str) -> None:
    policies = load_policies(ROOT / name)
    assert policies.ids
    assert policies.digest == hashlib.sha256((ROOT / name).read_bytes()).hexdigest()
    assert policies.version


def test_policies_keep_the_order_of_the_file(tmp_path: Path) -> None:
    pair = [policy(), policy(id="spam", reason_code="SPAM")]
    assert load_policies(write(tmp_path, content(policies=pair))).ids == ("weapons", "spam")


def test_policies_take_a_tiers_anchor(tmp_path: Path) -> None:
    assert load_policies(write(tmp_path, content(tiers=TIERS))).ids == ("weapons",)


def test_policies_digest_follows_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    first = load_policies(write(tmp_path, content()))
    second = load_policies(write(tmp_path / "b", content(version="2")))
    assert first.digest != second.digest


def test_bound_is_found_by_tier(tmp_path: Path) -> None:
    bounds = load_policies(write(tmp_path, content())).policies[0].tiers
    assert bounds.of(Tier.BLOCK).precision == 0.9
    assert bounds.of(Tier.REVIEW).max_share == 0.02


def test_tiers_are_ordered() -> None:
    assert [tier.label for tier in sorted(Tier)] == ["allow", "tag", "review", "block", "suspend"]
    assert max(Tier.TAG, Tier.BLOCK) is Tier.BLOCK


def _tiers(**changes: Any) -> list[dict[str, Any]]:
    return [policy(tiers=TIERS | changes)]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "a mapping with version"),
        ("- a\n- b\n", "a mapping with version"),
        ("version: [", "cannot be read"),
        (content(policies=[]), "policies: .*at least 1"),
        (content(policies=[policy(id=f"p{i}", reason_code=f"CODE_{i}") for i in range(65)]), "64"),
        (content(confidence=0.5), "confidence"),
        (content(confidence=1), "confidence"),
        (content(on_failure="allow"), "on_failure"),
        (content(on_failure_by_category={"knives": "block"}), r"on_failure_by_category\.knives"),
        (content(on_failure_by_category={"": "review"}), "on_failure_by_category"),
        (content(on_failure_by_category={"no": True}), r"on_failure_by_category\.no"),
        (
            content(on_failure_by_category={"a": "review", "A ": "review"}),
            "category is there twice",
        ),
        (content(colour="red"), "colour: Extra inputs"),
        (content(policies=[policy(id="Weapons")]), r"policies\.0\.id"),
        (content(policies=[policy(id="x" * 33)]), r"policies\.0\.id"),
        (content(policies=[policy(reason_code="no")]), r"policies\.0\.reason_code"),
        (content(policies=[policy(threshold=0.5)]), r"policies\.0\.threshold: Extra"),
        (content(policies=[policy(), policy()]), "share one id"),
        (content(policies=[policy(), policy(id="spam")]), "share one reason_code"),
        (content(policies=_tiers(review={"precision": 0.2})), "review needs max_share"),
        (content(policies=_tiers(block={"precision": 0.15})), "at least the precision"),
        (content(policies=_tiers(tag={"precision": 1.2})), r"tiers\.tag\.precision"),
        (content(policies=_tiers(tag={"precision": float("nan")})), r"tiers\.tag\.precision"),
        (content(policies=_tiers(ban={"precision": 1})), r"tiers\.ban: Extra"),
        (content(overrides=[override(policy="toys")]), r"unknown policies: \['toys'\]"),
        (content(overrides=[override(tier="allow")]), r"overrides\.0\.tier"),
        (content(overrides=[override(threshold=2)]), r"overrides\.0\.threshold"),
        (content(overrides=[override(reason="why")]), r"overrides\.0\.reason"),
        (content(overrides=[override(until="soon")]), r"overrides\.0\.until"),
        ({k: v for k, v in content().items() if k != "policies"}, "policies: Field required"),
    ],
)
def test_policies_refuse_a_wrong_file(tmp_path: Path, value: Any, reason: str) -> None:
    path = write(tmp_path, value)
    with pytest.raises(PolicyError, match=reason) as caught:
        load_policies(path)
    assert str(caught.value).startswith(str(path))


def test_policies_refuse_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"none\.yaml: cannot be read"):
        load_policies(tmp_path / "none.yaml")


def test_policies_refuse_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "policies.yaml"
    path.write_bytes(b"\xff\xfe\x00\x81 version")
    with pytest.raises(PolicyError, match="cannot be read|mapping"):
        load_policies(path)


def test_policies_report_every_wrong_field_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, content(confidence=3, on_failure="?"))
    with pytest.raises(PolicyError, match=r"on_failure.*confidence|confidence.*on_failure"):
        load_policies(path)


def test_failure_policy_follows_the_category(tmp_path: Path) -> None:
    named = {"Knives": "review", "books": "allow_and_review"}
    policies = load_policies(write(tmp_path, content(on_failure_by_category=named)))
    found = [policies.on_failure_in(name) for name in ("knives ", "KNIVES", "books", "toys", None)]
    assert found == ["review", "review", "allow_and_review", "allow_and_review", "allow_and_review"]


def test_failure_policy_is_to_let_through_and_look_when_nothing_is_said(tmp_path: Path) -> None:
    said = {key: value for key, value in content().items() if key != "on_failure"}
    assert load_policies(write(tmp_path, said)).on_failure == "allow_and_review"


@pytest.mark.parametrize(
    ("wrong", "line", "reason"),
    [
        ("  knives: block", 4, r"on_failure_by_category\.knives"),
        ("  knives: review\n  knives: allow_and_review", 5, "is said twice"),
        ("  knives: review\n  Knives: review", 3, "category is there twice"),
    ],
)
def test_policies_name_the_line_of_what_is_wrong(
    tmp_path: Path, wrong: str, line: int, reason: str
) -> None:
    rest = yaml.safe_dump({"confidence": 0.95, "policies": [policy()]})
    text = f"version: 1\non_failure: allow_and_review\non_failure_by_category:\n{wrong}\n{rest}"
    path = write(tmp_path, text)
    with pytest.raises(PolicyError, match=rf"policies\.yaml:{line}: .*{reason}"):
        load_policies(path)
