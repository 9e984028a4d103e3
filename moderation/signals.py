"""The table of every member's logit for every row: what training hands to calibration and evaluation.

Axes: N rows, P policies in the order of the policy file, M members in the order of `SIGNALS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from moderation.decision import SIGNALS, STATUS_CODES, SignalStatus
from moderation.errors import InvalidSnapshot

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int8]
Flags = npt.NDArray[np.bool_]
Words = npt.NDArray[np.str_]

IMAGE: Final = 1
TEXT: Final = 2
BEHAVIOUR: Final = 4
PATTERNS: Final = tuple(range(1, 8))
"""Every non-empty set of modalities, as the sum of its bits."""

OK: Final = STATUS_CODES[SignalStatus.OK]
MISSING: Final = STATUS_CODES[SignalStatus.MISSING]

_MODALITY_OF: Final = {"image": IMAGE, "text": TEXT, "ngram": TEXT, "behaviour": BEHAVIOUR}
_LOGIT_COLUMNS: Final = (
    "image_NP",
    "text_NP",
    "ngram_NP",
    "behaviour_NP",
    "fusion_both_NP",
    "fusion_image_NP",
    "fusion_text_NP",
)
_SLICE_PREFIX: Final = "slice."


def pattern_name(bits: int) -> str:
    """Return the modalities of a pattern in words.

    >>> pattern_name(5)
    'image+behaviour'
    >>> pattern_name(0)
    'nothing'
    """
    names = [("image", IMAGE), ("text", TEXT), ("behaviour", BEHAVIOUR)]
    return "+".join(name for name, bit in names if bits & bit) or "nothing"


def members_of(bits: int) -> tuple[int, ...]:
    """Return the indices into `SIGNALS` of the members that can answer under a pattern.

    >>> members_of(2)  # text alone: fusion with an absent image, text, ngram
    (0, 2, 3)
    """
    return tuple(
        index
        for index, name in enumerate(SIGNALS)
        if bits & _MODALITY_OF.get(name, IMAGE | TEXT)  # fusion answers with an image or a text
    )


@dataclass(frozen=True)
class SignalTable:
    """Member logits of N rows for P policies; NaN where the modality is absent.

    Logits of rows of role `train` must be out of fold: calibration trusts them as unseen.
    """

    policies: tuple[str, ...]
    submission_id: Words
    role: Words
    fold: Integers
    """Out-of-fold block of a train row; -1 for other roles and for rows without a score."""

    group: Integers
    weight: Floats
    truth_NP: Codes
    """1 violates, 0 does not, -1 unknown."""

    image_NP: Floats
    text_NP: Floats
    ngram_NP: Floats
    behaviour_NP: Floats
    fusion_both_NP: Floats
    fusion_image_NP: Floats
    """Fusion with the text withheld."""

    fusion_text_NP: Floats
    """Fusion with the images withheld."""

    num_images: Integers
    slices: Mapping[str, Words] = field(default_factory=dict)
    """Named categorical columns for reports (`language`, `evasion`, ...); never an input."""

    def __post_init__(self) -> None:
        num_rows, num_policies = len(self.submission_id), len(self.policies)
        for name in ("truth_NP", *_LOGIT_COLUMNS):
            shape = getattr(self, name).shape
            if shape != (num_rows, num_policies):
                raise InvalidSnapshot(
                    f"signals: {name} has shape {shape}, expected {(num_rows, num_policies)}"
                )
        for name in ("role", "fold", "group", "weight", "num_images"):
            if len(getattr(self, name)) != num_rows:
                raise InvalidSnapshot(f"signals: {name} must have {num_rows} rows")
        for name, values in self.slices.items():
            if len(values) != num_rows:
                raise InvalidSnapshot(f"signals: slice {name} must have {num_rows} rows")
        if not (np.isfinite(self.weight).all() and (self.weight > 0).all()):
            raise InvalidSnapshot("signals: every weight must be positive and finite")

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.submission_id)

    def available(self) -> Codes:
        """Return the pattern of modalities that each row has, as bits."""
        image = np.isfinite(self.image_NP).all(axis=1) & np.isfinite(self.fusion_image_NP).all(1)
        text = np.isfinite(self.text_NP).all(axis=1) & np.isfinite(self.ngram_NP).all(axis=1)
        text &= np.isfinite(self.fusion_text_NP).all(axis=1)
        behaviour = np.isfinite(self.behaviour_NP).all(axis=1)
        bits: Codes = (image * IMAGE + text * TEXT + behaviour * BEHAVIOUR).astype(np.int8)
        return bits

    def members(self, bits: int) -> Floats:
        """Return the logits that the members would give were only the modalities of `bits` there.

        Returns:
            signals_NPM; NaN where a member cannot answer under the pattern.
        """
        absent = np.full_like(self.image_NP, np.nan)
        fusion = {0: absent, IMAGE: self.fusion_image_NP, TEXT: self.fusion_text_NP}
        columns = {
            "fusion": fusion.get(bits & (IMAGE | TEXT), self.fusion_both_NP),
            "image": self.image_NP,
            "text": self.text_NP,
            "ngram": self.ngram_NP,
            "behaviour": self.behaviour_NP,
        }
        answering = {SIGNALS[index] for index in members_of(bits)}
        return np.stack([columns[n] if n in answering else absent for n in SIGNALS], axis=-1)

    def pattern(self, bits: int) -> tuple[Floats, Codes, Integers]:
        """Return the rows that have at least the modalities of `bits`, with all others withheld.

        A row with image and text thus also serves the pattern of the image alone: that is how
        the ensemble learns to do without a modality.

        Returns:
            signals_RPM, status_RPM (codes of the wire) and the indices of these R rows.
        """
        rows: Integers = np.flatnonzero((self.available() & bits) == bits).astype(np.int64)
        signals_RPM = self.take(rows).members(bits)
        status_RPM = np.where(np.isfinite(signals_RPM), OK, MISSING).astype(np.int8)
        return signals_RPM, status_RPM, rows

    def natural(self) -> tuple[Floats, Codes]:
        """Return every row's logits under the modalities that it really has: signals_NPM, status_NPM."""
        signals_NPM = np.full((*self.image_NP.shape, len(SIGNALS)), np.nan)
        available = self.available()
        for bits in PATTERNS:
            chosen = available == bits
            signals_NPM[chosen] = self.take(np.flatnonzero(chosen)).members(bits)
        status_NPM = np.where(np.isfinite(signals_NPM), OK, MISSING).astype(np.int8)
        return signals_NPM, status_NPM

    def take(self, rows: npt.NDArray[Any]) -> SignalTable:
        """Return the table of these rows, by index or by mask."""
        row_fields = [n for n in self.__dataclass_fields__ if n not in ("policies", "slices")]
        taken = {name: getattr(self, name)[rows] for name in row_fields}
        slices = {name: values[rows] for name, values in self.slices.items()}
        return SignalTable(policies=self.policies, slices=slices, **taken)

    def select(self, *roles: str) -> SignalTable:
        """Return the rows of these roles; of role `train` only those with an out-of-fold score."""
        scored = (self.role != "train") | (self.fold >= 0)
        return self.take(np.isin(self.role, roles) & scored)

    def save(self, path: Path) -> None:
        """Write the table as one .npz file; the same table gives the same bytes."""
        arrays = {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name != "slices"
        }
        arrays |= {f"{_SLICE_PREFIX}{name}": values for name, values in self.slices.items()}
        arrays["policies"] = as_words(self.policies)
        with path.open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> SignalTable:
        """Return the table of a file that `save` wrote.

        Raises:
            InvalidSnapshot: if the file is missing, damaged or lacks a column.
        """
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                columns = {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            raise InvalidSnapshot(f"{path}: no readable table of signals: {error}") from error
        lacking = set(cls.__dataclass_fields__) - {"slices"} - set(columns)
        if lacking:
            raise InvalidSnapshot(f"{path}: columns are missing: {', '.join(sorted(lacking))}")
        slices = {
            name.removeprefix(_SLICE_PREFIX): values
            for name, values in columns.items()
            if name.startswith(_SLICE_PREFIX)
        }
        fields = {n: v for n, v in columns.items() if not n.startswith(_SLICE_PREFIX)}
        policies = tuple(str(name) for name in fields.pop("policies"))
        return cls(policies=policies, slices=slices, **fields)


def as_words(values: Sequence[str]) -> Words:
    """Return strings as an array that a .npz file can hold without code."""
    return np.array(list(values), dtype=np.str_)
