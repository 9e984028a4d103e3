"""The search for golden items, or copies of them, among the rows that a candidate was trained on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Leak:
    """A golden item that a row of training is, or is a copy of, or shares a seller with."""

    item_id: str
    submission_id: str
    how: str
    """`id`, `seller`, `pdq`, `text` or `embedding`."""


@dataclass(frozen=True)
class LeakCheck:
    """What a search of the candidate's training rows for golden items found."""

    snapshot: str
    """Digest of the snapshot that was searched."""

    rows: int
    leaks: tuple[Leak, ...]
