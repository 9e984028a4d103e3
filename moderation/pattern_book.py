"""The patterns in force: those of a file that is looked at again whenever it changes; a wrong one is refused."""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Final

from moderation.clock import Clock
from moderation.errors import PatternError
from moderation.files import FollowedFile
from moderation.pattern_file import parse_patterns
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
        self._policies, self._clock = policies, clock
        self._file = None if path is None else FollowedFile(path)
        self._patterns: Patterns | None = None
        self.problem: str | None = None
        """What is wrong with the file; while it is, the patterns that were read before stay in force."""

        self.num_refused = 0
        """Times that a changed file was refused, or that it could be read no more."""

        if self._file is not None:
            self._load(self._file)

    @property
    def version(self) -> str | None:
        """Version and digest of the patterns in force, None where there are none."""
        patterns = self._patterns
        return None if patterns is None else patterns.version

    def refresh(self) -> None:
        """Read the file if it changed; what is wrong with it is told in `problem` and counted once.

        A wrong file is looked at again when it changes, one that cannot be read at the next call.

        Time: one `stat` where nothing changed.
        """
        if self._file is None:
            return
        try:
            self._load(self._file)
        except _Unreadable as error:
            if str(error) != self.problem:
                self._refuse(error)
        except PatternError as error:
            self._refuse(error)

    def match(self, title: str, description: str) -> PatternSignal | None:
        """Return what the patterns say of a listing's text; None where a marketplace has none."""
        patterns = self._patterns
        return None if patterns is None else patterns.match(title, description)

    def _load(self, file: FollowedFile) -> None:
        try:
            raw = file.read()
        except OSError as error:
            raise _Unreadable(f"{file.path}: cannot be read: {error}") from error
        if raw is None:
            return
        self._patterns = Patterns(parse_patterns(raw, str(file.path), self._policies), self._clock)
        self.problem = None

    def _refuse(self, error: PatternError) -> None:
        self.num_refused += 1
        self.problem = str(error)
        _LOG.error("pattern file refused", extra={"problem": self.problem})


class _Unreadable(PatternError):
    """Nothing is known of what the file says; look again."""
