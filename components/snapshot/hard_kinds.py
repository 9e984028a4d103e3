"""Which kinds of rows a snapshot emphasises: those that attacks turned in the bundles before it."""

from datetime import datetime
from typing import Final

from components.home import Home
from components.prove.lineage import recorded
from moderation.attacks.hard_examples import DamagedExport, read
from moderation.emphasis import Emphasis
from moderation.errors import PermanentError

_NEWEST: Final = 8
"""Bundles that are looked at: about a week of daily ones. With the last alone, a kind that was learned would be
forgotten the day after, and turned again the day after that."""


def emphasis_of(home: Home, cut_off: datetime) -> Emphasis:
    """Return the emphasis that the exports of a home give to a snapshot.

    Only bundles that were trained until an earlier cut-off count, so that a run repeated for a date sees what it saw
    the first time: nothing that came of itself.

    Args:
        home: holds the exports, and until when each bundle saw truth.
        cut_off: of the snapshot.

    Raises:
        DamagedExport: if an export cannot be read, or nothing is known of its bundle.
    """
    found = []
    for path in home.hard_examples.glob("*.jsonl"):
        try:
            seen_until, _ = recorded(home, path.stem)
        except PermanentError as error:
            raise DamagedExport(path, str(error)) from error
        if seen_until < cut_off:
            found.append((seen_until, path))
    newest = sorted(found)[-_NEWEST:]
    return Emphasis.of(example for _, path in newest for example in read(path))
