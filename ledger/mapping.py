"""Which column of a foreign table is what: the mapping file of an import, and how one is found."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from moderation.errors import PermanentError
from moderation.yaml_lines import load

FILE_NAME: Final = "mapping.yaml"

UNDATED: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""The one instant of every row of a table that has no event times, unless its mapping names another."""

EXAMPLES: Final = Path(__file__).resolve().parents[1] / "examples"

# Names under which people keep these columns, best first. `category` is not guessed: in many a table it is the answer.
_CONVENTIONS: Final[dict[str, tuple[str, ...]]] = {
    "listing_id": ("listing_id", "item_id", "product_id", "id", "sku"),
    "title": ("title", "name", "item_name", "product_name", "product_title"),
    "description": ("description", "desc", "text", "body", "details"),
    "images": ("images", "image", "image_path", "image_file", "photos", "photo", "img", "filename"),
    "price": ("price", "amount"),
    "currency": ("currency", "price_currency"),
    "region": ("region", "country"),
    "language": ("language", "lang", "locale"),
    "seller_id": ("seller_id", "seller", "merchant_id", "shop_id", "user_id"),
    "submitted_at": ("submitted_at", "listed_at", "created_at", "timestamp", "date"),
    "split": ("split",),
}
# What people write for yes and no; anything else in a guessed column (pending, 2) stays unknown.
_POSITIVE: Final = ("1", "true", "yes", "y", "violation")
_NEGATIVE: Final = ("0", "false", "no", "n")
_TRUTH_NAMES: Final = ("label", "truth", "violates", "is_violation", "violation", "target", "y")


class MappingError(PermanentError):
    """A mapping does not fit its table or does not load; correct the file that the message names."""


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Columns = Annotated[tuple[str, ...], BeforeValidator(_as_list)]
"""One column or several; of several, the first that holds something wins."""

Value = str | int | float | bool


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageColumns(_Frozen):
    """Columns with images: bytes, file names, or lists of either."""

    columns: Columns
    folder: str = "."
    """Where file names start, relative to the table; nothing outside it is read."""

    separator: str | None = None
    """What parts several file names in one text column, such as `|`."""


class ValueColumn(_Frozen):
    """A column whose values are renamed; a value that is not in `values` stays as it is."""

    column: str
    values: dict[str, str] = Field(default_factory=dict)


class TruthColumn(_Frozen):
    """A column that says whether a row violates one policy; an empty cell is unknown, never negative."""

    column: str
    positive: Annotated[tuple[Value, ...], Field(min_length=1)] = (1,)
    negative: tuple[Value, ...]
    """Always said, never concluded from what is not positive; [] where the column holds no such value."""

    others: Literal["refuse", "unknown"] = "refuse"
    """A value that is in neither list is an error of its row, or leaves the truth unknown and is reported."""

    known_at: str | None = None
    """Column with the time at which the truth could first be used; the submission's time if None."""

    @model_validator(mode="before")
    @classmethod
    def _says_what_is_negative(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("negative") is None:
            raise ValueError(
                "negative is missing; list the values that mean no violation, such as [0] (what is not positive "
                "may be unknown)"
            )
        return value


def _as_images(value: object) -> object:
    return {"columns": value} if isinstance(value, str | list) else value


def _as_values(value: object) -> object:
    return {"column": value} if isinstance(value, str) else value


Renamed = Annotated[ValueColumn, BeforeValidator(_as_values)]


class ColumnMapping(_Frozen):
    """What each column of a table means; columns that are not named here are never read."""

    table: str | None = None
    """Name of the table's file where its folder holds several."""

    policies: str | None = None
    """Policy file that the truth columns speak of, relative to the mapping file."""

    listing_id: Columns = ()
    """Without one, a row is called by its number."""

    title: Columns = ()
    description: Columns = ()
    images: Annotated[ImageColumns, BeforeValidator(_as_images)] | None = None
    price: Columns = ()
    currency: Columns = ()
    category: Columns = ()
    region: Columns = ()
    language: Columns = ()
    seller_id: Columns = ()
    submitted_at: Columns = ()
    undated_at: AwareDatetime = UNDATED
    """Instant of every row when the table has no times; their attribute `time` then says `unknown`."""

    split: Renamed | None = None
    """Official split; `test` is only tested on, everything else trains."""

    truth: Annotated[dict[str, TruthColumn], Field(min_length=1)]
    """Policy id -> where its truth is."""

    attributes: dict[str, Renamed] = Field(default_factory=dict)
    """Slices for reports, never a model input; an empty or false cell leaves the attribute out."""

    inclusion_probability: str | None = None
    weight: str | None = None
    """Inverse inclusion probability, at least 1; at most one of the two columns is given."""

    @model_validator(mode="after")
    def _is_consistent(self) -> "ColumnMapping":
        if self.inclusion_probability and self.weight:
            raise ValueError("give inclusion_probability or weight, not both")
        if not (self.title or self.description or self.images):
            raise ValueError("give at least one of title, description and images")
        taken = {"split", "time"} & set(self.attributes)
        if taken:
            raise ValueError(f"attributes {sorted(taken)} are set by the import itself")
        return self

    def fields(self) -> dict[str, Columns]:
        """Return the plain fields of a listing that are mapped, with their columns."""
        names = "title description price currency category region language seller_id submitted_at"
        return {name: getattr(self, name) for name in names.split() if getattr(self, name)}

    def columns(self) -> tuple[str, ...]:
        """Return every column that the mapping reads, each once."""
        named = [*self.listing_id, *(c for columns in self.fields().values() for c in columns)]
        named += self.images.columns if self.images else ()
        named += [self.split.column] if self.split else []
        named += [value.column for value in self.attributes.values()]
        for truth in self.truth.values():
            named += [truth.column, *([truth.known_at] if truth.known_at else [])]
        named += [name for name in (self.inclusion_probability, self.weight) if name]
        return tuple(dict.fromkeys(named))


@dataclass(frozen=True)
class FoundMapping:
    """A mapping and where it came from."""

    mapping: ColumnMapping
    origin: str
    """For people: the file, or that it was guessed from the column names."""

    policies: Path | None = None
    """The policy file that it names."""

    def to_yaml(self) -> str:
        """Return the mapping as a file that can be kept and corrected."""
        return _to_yaml(self.mapping.model_dump(mode="json", exclude_defaults=True))


def load_mapping(path: Path) -> FoundMapping:
    """Return the mapping of a YAML file.

    Raises:
        MappingError: naming the file and each wrong field.
    """
    try:
        _, content = load(path.read_bytes())
    except (OSError, ValueError) as error:
        raise MappingError(f"{path}: cannot be read: {error}") from error
    try:
        mapping = ColumnMapping.model_validate(content)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise MappingError(f"{path}: {wrong}") from error
    policies = path.parent / mapping.policies if mapping.policies else None
    return FoundMapping(mapping, str(path), policies)


def find_mapping(
    columns: Sequence[str], policy_ids: Sequence[str], *, examples: Path = EXAMPLES
) -> FoundMapping:
    """Return a mapping for a table that brings none: a shipped one that fits it, or a guess.

    Args:
        columns: the table's columns.
        policy_ids: policies that a guess looks for the truth of.
        examples: folder of shipped examples, each with its mapping file.

    Raises:
        MappingError: if no shipped one fits and no truth column can be guessed; it proposes a file to start from.
    """
    shipped = [load_mapping(path) for path in sorted(examples.glob(f"*/{FILE_NAME}"))]
    fitting = [found for found in shipped if set(found.mapping.columns()) <= set(columns)]
    if fitting:
        return max(fitting, key=lambda found: len(found.mapping.columns()))
    return _guess(columns, policy_ids)


def check_columns(found: FoundMapping, columns: Iterable[str]) -> None:
    """Check that a table has every column that the mapping names.

    Raises:
        MappingError: naming the missing columns and those that are there.
    """
    lacking = [name for name in found.mapping.columns() if name not in set(columns)]
    if lacking:
        raise MappingError(
            f"{found.origin}: the table has no column {', '.join(lacking)}; it has {', '.join(columns)}"
        )


def _guess(columns: Sequence[str], policy_ids: Sequence[str]) -> FoundMapping:
    """Return the mapping that conventional column names suggest."""
    by_name = {column.casefold(): column for column in columns}
    guess: dict[str, Any] = {}
    for field, names in _CONVENTIONS.items():
        known = next((by_name[name] for name in names if name in by_name), None)
        if known:
            guess[field] = known
    truth = {policy: by_name[policy] for policy in policy_ids if policy in by_name}
    if not truth and len(policy_ids) == 1:
        named = next((by_name[name] for name in _TRUTH_NAMES if name in by_name), None)
        truth = {policy_ids[0]: named} if named else {}
    if not truth:
        blank = {"column": "?", "positive": [1], "negative": [0]}
        example = guess | {"truth": dict.fromkeys(policy_ids, blank)}
        raise MappingError(
            f"no column tells the truth about {', '.join(policy_ids)}; write a {FILE_NAME} beside the table, "
            f"starting from:\n{_to_yaml(example)}The table has {', '.join(columns)}"
        )
    values = {"positive": _POSITIVE, "negative": _NEGATIVE, "others": "unknown"}
    guess["truth"] = {policy: {"column": column} | values for policy, column in truth.items()}
    try:
        mapping = ColumnMapping.model_validate(guess)
    except ValidationError as error:
        raise MappingError(
            f"no column holds a title, a description or an image; write a {FILE_NAME}; "
            f"the table has {', '.join(columns)}"
        ) from error
    return FoundMapping(mapping, "guessed from the column names")


class _PlainDumper(yaml.SafeDumper):
    """Repeats what occurs twice instead of pointing at it, for people."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _to_yaml(content: dict[str, Any]) -> str:
    return yaml.dump(content, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True)
