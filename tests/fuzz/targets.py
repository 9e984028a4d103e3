"""Everything that is fuzzed, by name."""

from typing import Final

from tests.fuzz.files import FILES
from tests.fuzz.images import IMAGES, LARGE_IMAGES
from tests.fuzz.requests import REQUESTS
from tests.fuzz.sealed import SEALED
from tests.fuzz.target import Target
from tests.fuzz.texts import TEXTS

TARGETS: Final[dict[str, Target]] = {
    target.name: target for target in (IMAGES, LARGE_IMAGES, *TEXTS, *FILES, *REQUESTS, SEALED)
}
