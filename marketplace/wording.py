"""Titles and descriptions: a template that anyone may use, filled with the words of a scene, in one language."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from marketplace.config import LANGUAGES
from marketplace.evasion import Evasion, hide
from marketplace.scenes import Cell, Words

BRANDS: Final = ("Norvane", "Aurelo", "Veltro", "Okamira")
HOUSES: Final = ("Norvalle", "Aurella", "Valtora", "Okara")
"""House brands that lawfully look a little like the brand of the same place."""

_LIVE_TEMPLATES: Final = 24
_TEMPLATE_BIRTHS_PER_DAY: Final = 0.6
_TITLE_TELLS: Final = 0.88
_ZIPF: Final = 1.8
_SINGLE_THING: Final = 0.45
_SEPARATOR: Final = " | "
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Template:
    """The frame of a text: what stands around the words that matter."""

    template_id: str
    lead: str
    tail: str
    opening: str
    closing: str


@dataclass(frozen=True)
class Topic:
    """What the words are about: the thing, and a brand by its place in the lists."""

    subject: str
    brand: int


@cache
def _lexicon(language: str) -> dict[str, Any]:
    path = Path(__file__).parent / "words" / f"{language}.yaml"
    content: dict[str, Any] = _split(yaml.safe_load(path.read_text(encoding="utf-8")))
    return content


def _split(value: Any) -> Any:  # YAML gives strings in nested mappings
    if isinstance(value, dict):
        return {key: _split(item) for key, item in value.items()}
    return tuple(value.split(_SEPARATOR))


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _pick_common(options: tuple[str, ...], rng: np.random.Generator) -> str:
    """Some phrases are on everyone's lips, others are rare: the chance falls with the place in the list."""
    chance = np.arange(1, len(options) + 1) ** -_ZIPF
    return options[int(rng.choice(len(options), p=chance / chance.sum()))]


@cache
def _template(seed: int, language: str, number: int) -> Template:
    words = _lexicon(language)
    rng = np.random.default_rng((seed, 11, LANGUAGES.index(language), number))
    return Template(
        f"t-{language}-{number}",
        *(_pick(words[part], rng) for part in ("leads", "tails", "opens", "closes")),
    )


def live_template(seed: int, language: str, age_days: int, chance: float) -> Template:
    """Return one of the templates in use `age_days` after the start; `chance` in [0, 1) picks it."""
    oldest = int(age_days * _TEMPLATE_BIRTHS_PER_DAY)
    return _template(seed, language, oldest + int(chance * _LIVE_TEMPLATES))


def compose(
    cell: Cell,
    topic: Topic,
    template: Template,
    *,
    language: str,
    trick: Evasion,
    rng: np.random.Generator,
) -> tuple[str, str]:
    """Return title and description of a listing of `cell`."""
    words = _lexicon(language)
    thing, lines = _matter(cell, topic, words, rng)
    if cell.scene.words in (Words.CODED, Words.EXPLICIT, Words.SUSPECT, Words.LOOKALIKE):
        if rng.random() > _TITLE_TELLS:
            thing = _pick(words["bland_titles"], rng)
        elif rng.random() < 0.35:
            lines = _pick(words["bland_lines"], rng)
    thing, lines = (_fill(text, topic, words, rng) for text in (thing, lines))
    if cell.scene.violates and cell.scene.words in (Words.CODED, Words.EXPLICIT):
        thing, lines = hide(thing, trick, rng), hide(lines, trick, rng)
    title = _fill(f"{template.lead} {thing}{template.tail}", topic, words, rng).strip()
    parts = [template.opening, lines, template.closing]
    if rng.random() < 0.4:
        parts.pop(0 if rng.random() < 0.5 else 2)
    return title, _fill(" ".join(parts), topic, words, rng)


def _matter(
    cell: Cell, topic: Topic, words: dict[str, Any], rng: np.random.Generator
) -> tuple[str, str]:
    kind = cell.scene.words
    if cell.policy is None or kind in (Words.BLAND, Words.ORDINARY):
        if kind is Words.BLAND:
            return _pick(words["bland_titles"], rng), _pick(words["bland_lines"], rng)
        return _ordinary_things(topic, words, rng), _pick(words["ordinary_lines"], rng)
    about = words[cell.policy]
    if kind is Words.LOOKALIKE:
        things, lines = about["things"], about["lookalike_lines"]
        return _pick_common(things[topic.subject], rng), _pick_common(lines, rng)
    name = kind.name.lower()
    return _pick_common(about[name], rng), _pick_common(about[f"{name}_lines"], rng)


def _ordinary_things(topic: Topic, words: dict[str, Any], rng: np.random.Generator) -> str:
    """Two things go together half of the time, so that titles are as long as those of other listings."""
    thing = _pick(words["ordinary"][topic.subject], rng)
    if rng.random() < _SINGLE_THING:
        return thing
    others = tuple(words["ordinary"])
    return f"{thing} + {_pick(words['ordinary'][_pick(others, rng)], rng)}"


def _fill(text: str, topic: Topic, words: dict[str, Any], rng: np.random.Generator) -> str:
    if "{" not in text:
        return text
    good = words["goods"].get(topic.subject, words["goods"]["sneaker"])[0]
    return text.format(
        n=int(rng.integers(2, 48)), brand=BRANDS[topic.brand], house=HOUSES[topic.brand], good=good
    )


@cache
def _frame_words(language: str) -> frozenset[str]:
    frames = _lexicon(language)["leads"] + _lexicon(language)["tails"]
    return frozenset(word for frame in frames for word in _WORD.findall(frame.casefold()))


def skeleton(title: str, language: str) -> str:
    """Return `title` with every name and number masked: what is left is its template.

    >>> skeleton("Selling cordless drill, barely used", "en")
    'selling _ barely used'
    """
    frame = _frame_words(language)
    marks = [word if word in frame else "_" for word in _WORD.findall(title.casefold())]
    kept = [mark for i, mark in enumerate(marks) if mark != "_" or i == 0 or marks[i - 1] != "_"]
    return " ".join(kept) + ("!" if title.rstrip().endswith("!!") else "")
