"""The release contract as a pipeline carries it: its text, so that a run does not depend on a file of the machine."""

from pathlib import Path
from typing import Final

from moderation.gates.measures import READS
from moderation.gates.slicing import DERIVED
from moderation.release import ReleaseContract, Vocabulary, load_release, parse_release

_VOCABULARY: Final = Vocabulary(READS, DERIVED)
ORIGIN: Final = "the pipeline's release contract"


def read_contract(text: str, origin: str = ORIGIN) -> ReleaseContract:
    """Return the checked contract of a release file's text; the digest is that of the text.

    Args:
        text: content of the file.
        origin: where the text came from, for people.

    Raises:
        PolicyError: naming the origin, the line and each wrong field, or what nobody measures.
    """
    return parse_release(text.encode("utf-8"), origin, _VOCABULARY)


def load_contract(path: Path) -> ReleaseContract:
    """Return the checked contract of a release file.

    Raises:
        PolicyError: naming the file, the line and each wrong field, or what nobody measures.
    """
    return load_release(path, _VOCABULARY)
