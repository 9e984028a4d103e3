"""The patterns in force: those of a file that is looked at again whenever it changes; a wrong one is refused."""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Final

from moderation.clock import Clock
from moderation.errors import PatternError
from moderation.pattern_file import load_patterns
from moderation.patterns import Patterns, PatternSignal

_LOG: Final = logging.getLogger(__name__)


class PatternBook:
    """Matches the newest patterns of a file that load. `refresh` may run in another thread than `match`.

    Args:
        path: the file; None where a marketplace has no patterns.
        policies: ids that a pattern may name.
        clock: tells which patterns are expired.

    Raises:
        PatternError: if the file does not load when it is first opened.
    """

    def __init__(self, path: Path | None, policies: Collection[str], clock: Clock) -> None:
        self._path, self._policies, self._clock = path, policies, clock
        self._seen: tuple[int, ...] | None = ()
        self._patterns: Patterns | None = None
        self.problem: str | None = None
        """What is wrong with the file; while it is, the patterns that were read before stay in force."""

        self.num_refused = 0
        """Times that a changed file was refused."""

        if path is not None:
            self._load(path)

    @property
    def version(self) -> str | None:
        """Version and digest of the patterns in force, None where there are none."""
        patterns = self._patterns
        return None if patterns is None else patterns.version

    def refresh(self) -> None:
        """Read the file if it changed; a wrong one is told in `problem`, counted, and looked at again when it changes.

        Time: one `stat` where nothing changed.
        """
        if self._path is None:
            return
        try:
            self._load(self._path)
        except PatternError as error:
            self.num_refused += 1
            self.problem = str(error)
            _LOG.error("pattern file refused", extra={"problem": self.problem})

    def match(self, title: str, description: str) -> PatternSignal | None:
        """Return what the patterns say of a listing's text; None where a marketplace has none."""
        patterns = self._patterns
        return None if patterns is None else patterns.match(title, description)

    def _load(self, path: Path) -> None:
        seen = _facts(path)
        if seen == self._seen:
            return
        self._seen = seen
        self._patterns = Patterns(load_patterns(path, self._policies), self._clock)
        self.problem = None


def _facts(path: Path) -> tuple[int, ...] | None:
    """Return what changes with a file, None where it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
