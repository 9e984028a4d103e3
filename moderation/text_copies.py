"""Texts that copy a golden one although words were changed, hidden or padded: shared runs of characters that are rare.

What many sellers write (a catalogue's text, a template's phrase) says nothing about a copy: only runs of characters
that few groups use are marks of a text. Which ones is settled once, when a golden set is built, so that every later
search finds the same copies. G golden rows, S marks, U distinct marks.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from moderation.errors import InvalidSnapshot
from moderation.text import normalise

_FILE: Final = "texts.npz"
_RUN: Final = 8
"""Characters of a run: longer than most words, so that a word in common is no run in common."""

_KEPT: Final = 4
"""One run in so many is kept, chosen by its hash, so that every text keeps the same ones."""

_MAX_CHARS: Final = 2_000
_MAX_GROUPS: Final = 5
"""What more sellers or campaigns than this write is a template's or a catalogue's."""

_MIN_WHOLE: Final = 40
"""Characters of a text that is taken for a copy when it is equal."""

_MIN_SHARED: Final = 6
"""Marks that a copy shares: about thirty characters that nearly nobody else writes."""

_MIN_SHARE: Final = 0.7
"""Of the golden text's marks: a typo costs eight runs, padding costs none."""

Runs = npt.NDArray[np.uint64]
_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class TextMarks:
    """What the texts of G golden rows are known by."""

    mark_S: Runs
    """Hashes of rare runs, sorted."""

    row_S: npt.NDArray[np.int64]
    num_marks_G: npt.NDArray[np.int64]
    whole_G: Runs
    """Hash of the whole text."""

    is_rare_G: npt.NDArray[np.bool_]
    """Whether an equal text is a copy."""

    is_bare_G: npt.NDArray[np.bool_]
    """Without an image: an equal text of a row without one is a copy however common it is."""

    @classmethod
    def of(
        cls,
        golden: Sequence[tuple[str, bool]],
        everyone: Iterable[tuple[str, int]],
    ) -> "TextMarks":
        """Return the marks of golden texts.

        Args:
            golden: text and whether there is an image, per golden row.
            everyone: text and group of every row there is, golden ones included; read once.
        """
        folded = [_folded(text) for text, _ in golden]
        runs = [_runs(text) for text in folded]
        row_S = np.repeat(np.arange(len(runs)), [len(one) for one in runs]).astype(np.int64)
        mark_S = np.concatenate([np.empty(0, np.uint64), *runs])
        whole_G = np.array([_hash(text) for text in folded], np.uint64)
        is_rare_S, is_rare_G = _rare(mark_S, whole_G, everyone)
        is_long_G = np.array([len(text) >= _MIN_WHOLE for text in folded], bool)
        mark_S, row_S = mark_S[is_rare_S], row_S[is_rare_S]
        order = np.argsort(mark_S, kind="stable")
        has_text_G = np.array([bool(text) for text in folded], bool)
        return cls(
            mark_S=mark_S[order],
            row_S=row_S[order],
            num_marks_G=np.bincount(row_S, minlength=len(runs)).astype(np.int64),
            whole_G=whole_G,
            is_rare_G=is_rare_G & is_long_G,
            is_bare_G=np.array([not has_image for _, has_image in golden], bool) & has_text_G,
        )

    def copied(self, text: str, *, has_image: bool) -> int:
        """Return the golden row that a text copies; -1 where it copies none."""
        folded = _folded(text)
        if not folded:
            return -1
        is_equal_G = self.whole_G == np.uint64(_hash(folded))
        equal = np.flatnonzero(is_equal_G & (self.is_rare_G | self.is_bare_G & (not has_image)))
        if len(equal):
            return int(equal[0])
        runs = _runs(folded)
        begin = np.searchsorted(self.mark_S, runs, side="left")
        end = np.searchsorted(self.mark_S, runs, side="right")
        rows = [self.row_S[b:e] for b, e in zip(begin, end, strict=True) if e > b]
        if len(rows) < _MIN_SHARED:
            return -1
        row, shared = np.unique(np.concatenate(rows), return_counts=True)
        is_copy = (shared >= _MIN_SHARED) & (shared >= _MIN_SHARE * self.num_marks_G[row])
        return int(row[is_copy][0]) if is_copy.any() else -1

    @property
    def digest(self) -> str:
        """SHA-256 of the marks."""
        digest = hashlib.sha256()
        for name, values in self._arrays().items():
            digest.update(f"{name}:{len(values)}:".encode() + values.tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write the marks beside the table that they are of."""
        with (folder / _FILE).open("wb") as file:
            arrays: dict[str, Any] = self._arrays()
            np.savez(file, **arrays)

    @classmethod
    def load(cls, folder: Path) -> "TextMarks":
        """Return what `save` wrote.

        Raises:
            InvalidSnapshot: if it is missing or damaged.
        """
        try:
            with (folder / _FILE).open("rb") as file, np.load(file) as arrays:
                return cls(**{name: arrays[name] for name in cls.__dataclass_fields__})
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise InvalidSnapshot(f"{folder / _FILE} cannot be read: {error!r}") from error

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {name: getattr(self, name) for name in sorted(self.__dataclass_fields__)}


def _rare(
    mark_S: Runs, whole_G: Runs, everyone: Iterable[tuple[str, int]]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which golden runs and which whole golden texts at most a few groups use."""
    known_U, place_S = np.unique(mark_S, return_inverse=True)
    users: list[set[int]] = [set() for _ in known_U]
    wholes: dict[int, set[int]] = {int(whole): set() for whole in whole_G}
    for text, group in everyone:
        folded = _folded(text)
        wholes.get(_hash(folded), set()).add(group)
        for place in np.flatnonzero(np.isin(known_U, _runs(folded), assume_unique=True)).tolist():
            if len(users[place]) <= _MAX_GROUPS:
                users[place].add(group)
    is_rare_U = np.array([len(groups) <= _MAX_GROUPS for groups in users], bool)
    is_rare_G = np.array([len(wholes[int(w)]) <= _MAX_GROUPS for w in whole_G], bool)
    return is_rare_U[place_S], is_rare_G


def _folded(text: str) -> str:
    return " ".join(normalise(text[:_MAX_CHARS]).folded.split())


def _hash(text: str) -> int:
    """Return 64 bits that depend on the text alone, in every process."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "big")


def _runs(text: str) -> Runs:
    """Return the hashes of the kept runs of a folded text, each once."""
    codes = np.frombuffer(text.encode("utf-32-le", "replace"), np.uint32).astype(np.uint64)
    if len(codes) < _RUN:
        return np.empty(0, np.uint64)
    hashes = np.zeros(len(codes) - _RUN + 1, np.uint64)
    for place in range(_RUN):
        hashes = (hashes ^ codes[place : place + len(hashes)]) * _FACTOR
        hashes ^= hashes >> np.uint64(29)
    return np.unique(hashes[hashes % np.uint64(_KEPT) == 0])
