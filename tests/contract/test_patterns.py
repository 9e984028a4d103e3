"""The shipped patterns load against the shipped policies, and find what they are there for."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from moderation.clock import SimulatedClock
from moderation.pattern_file import parse_patterns
from moderation.patterns import Patterns
from moderation.policy import load_policies

ROOT = Path(__file__).resolve().parents[2]
POLICIES = load_policies(ROOT / "policies" / "marketplace.yaml").ids
PATH = ROOT / "policies" / "patterns.yaml"
FILE = parse_patterns(PATH.read_bytes(), str(PATH), POLICIES)
PATTERNS = Patterns(FILE, SimulatedClock(datetime(2026, 11, 22, tzinfo=UTC)))


@pytest.mark.parametrize(
    ("text", "pattern_id"),
    [
        ("Box of H0LLOW P0INT, sealed", "ammunition-words"),
        ("500x 9mm ammo", "ammunition-by-caliber"),
        ("clean 80% lower, black", "unmarked-frame"),
        ("AAA replica of a well-known bag", "replica-grade"),
        ("bag, without authenticity card", "no-papers"),
        ("wh\u200batsapp: +44 7700 900123", "messenger-with-number"),
        ("ask me at https://t.me/best_goods", "messenger-link"),
        ("W\u0435stern Union only", "pay-before-viewing"),
    ],
)
def test_every_pattern_finds_its_example(text: str, pattern_id: str) -> None:
    assert {hit.pattern_id for hit in PATTERNS.match("", text).hits} == {pattern_id}


def test_every_pattern_has_an_example() -> None:
    [mark] = test_every_pattern_finds_its_example.pytestmark  # type: ignore[attr-defined]
    assert {example[1] for example in mark.args[1]} == {pattern.id for pattern in FILE.patterns}


@pytest.mark.parametrize(
    "text",
    [
        "Drill bit 9 mm, 20 rounds of polish included with the buffer",
        "Original bag with authenticity card and receipt",
        "Old telegram from 1912, framed, 30 x 40 cm",
        "iPhone 13 with lower price, 80 gb",
    ],
)
def test_honest_listings_have_no_hit(text: str) -> None:
    assert PATTERNS.match(text, text).hits == ()
