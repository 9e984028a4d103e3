"""The pattern file: literals and expressions that analysts write, versioned, typed, refused with the line at fault."""

import hashlib
from collections.abc import Collection, Iterator
from datetime import date
from typing import Annotated, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from moderation.errors import PatternError
from moderation.expressions import Expression, check_plain
from moderation.text import normalise
from moderation.yaml_lines import Loc, line_of, load, repeated

MAX_PATTERNS: Final = 10_000
MAX_EXPRESSIONS: Final = 500
"""Expressions of one file: each reads the whole text, while all literals together read it once."""

Reading = Literal["original", "normalised", "folded"]
"""Which text a hit was found in: as it came, as it looks, or as it is meant (`moderation.text`)."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Pattern(_Frozen):
    """One literal or expression of a policy. Evidence for reviewers, never shown to a seller."""

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
    policy: str
    kind: Literal["literal", "regex"]
    text: Annotated[str, Field(min_length=1, max_length=500)]
    """A literal, in any case and spelling; or an expression in RE2's syntax, which on normalised text meets lower case
    and single spaces. Case is ignored."""

    reading: Literal["original", "normalised", "both"] = "both"
    """`normalised` means two readings: as the text looks, and as it is meant (accents stripped, leetspeak resolved)."""

    word_boundaries: bool = True
    enabled: bool = True
    tier: Literal["tag", "review"] = "review"
    """What a hit may lead to at most; a pattern alone never blocks."""

    note: Annotated[str, Field(min_length=8)]
    author: Annotated[str, Field(min_length=2)]
    expires: date | None = None
    """First day, in UTC, on which it no longer matches."""

    def needles(self) -> dict[Reading, str]:
        """Return a literal as each reading of a text spells it, by the readings that it is sought in."""
        shown = normalise(self.text)
        texts: dict[Reading, str] = {}
        if self.reading != "normalised":
            texts["original"] = lower(self.text)
        if self.reading != "original":
            texts |= {"normalised": shown.normalised, "folded": shown.folded}
        return texts

    @model_validator(mode="after")
    def _text_works(self) -> "Pattern":
        check_plain(self.text)
        if self.kind == "regex":
            Expression(self.text, word_boundaries=self.word_boundaries)
        elif not all(needle.strip() for needle in self.needles().values()):
            raise ValueError("the literal is empty once it is normalised; set reading: original")
        return self


class PatternFile(_Frozen):
    """All patterns of a marketplace, with their version and the digest of the file's bytes."""

    version: Annotated[str, Field(min_length=1)]
    digest: str
    patterns: Annotated[tuple[Pattern, ...], Field(max_length=MAX_PATTERNS)]


def lower(text: str) -> str:
    """Return `text` in lower case with every character in its place; both forms of the small sigma are one."""
    return text.replace("İ", "i").lower().replace("ς", "σ")


def parse_patterns(raw: bytes, origin: str, policies: Collection[str]) -> PatternFile:
    """Return the checked patterns of a file's bytes; the digest is that of the bytes.

    Args:
        raw: YAML in UTF-8.
        origin: where the bytes came from, for people.
        policies: ids that a pattern may name.

    Raises:
        PatternError: naming the origin, the line and the pattern.
    """
    try:
        node, content = load(raw)
    except ValueError as error:
        raise PatternError(f"{origin}: cannot be read: {error}") from error
    if node is None or not isinstance(content, dict):
        raise PatternError(f"{origin}: a mapping with version and patterns is expected")
    content["version"] = str(content.get("version", ""))
    content["digest"] = hashlib.sha256(raw).hexdigest()
    wrong: list[tuple[Loc, str]] = [(loc, "is said twice") for loc in repeated(node)]
    try:
        found = PatternFile.model_validate(content)
        wrong += _disagreements(found, policies)
    except ValidationError as error:
        wrong += [(one["loc"], one["msg"]) for one in error.errors()]
    if wrong:
        raise PatternError("; ".join(_explain(origin, node, content, *one) for one in wrong))
    return found


def _disagreements(found: PatternFile, policies: Collection[str]) -> Iterator[tuple[Loc, str]]:
    first: dict[str, int] = {}
    for number, pattern in enumerate(found.patterns):
        if pattern.id in first:
            yield ("patterns", number, "id"), f"pattern {first[pattern.id] + 1} has that id too"
        first.setdefault(pattern.id, number)
        if pattern.policy not in policies:
            known = ", ".join(sorted(policies))
            yield ("patterns", number, "policy"), f"there is no policy {pattern.policy}; {known}"
    expressions = [n for n, pattern in enumerate(found.patterns) if pattern.kind == "regex"]
    if len(expressions) > MAX_EXPRESSIONS:
        number = expressions[MAX_EXPRESSIONS]
        yield ("patterns", number, "kind"), f"more than {MAX_EXPRESSIONS} expressions; use literals"


def _explain(origin: str, node: yaml.Node, content: dict[str, object], loc: Loc, said: str) -> str:
    said = said.removeprefix("Value error, ").replace("valid string", "string, in quotes")
    where = f"{origin}:{line_of(node, loc)}"
    patterns = content.get("patterns")
    if loc[:1] != ("patterns",) or len(loc) < 2 or not isinstance(patterns, list):
        return f"{where}: {'.'.join(map(str, loc))}: {said}"
    number = loc[1]
    assert isinstance(number, int)
    one = patterns[number]
    name = one.get("id", number + 1) if isinstance(one, dict) else number + 1
    field = ".".join(map(str, loc[2:])) or "text"
    return f"{where}: pattern {name}: {field}: {said}"
