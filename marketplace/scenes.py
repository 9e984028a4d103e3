"""What can be in a listing: how far photo and text give it away, how often that happens, and what it means.

A scene is drawn first; photo and text are then made from it. The table is the whole truth of the generator, so the best
possible answer to what is visible follows from it by Bayes' rule.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Final

from marketplace.config import POLICIES, WorldConfig


class Photo(IntEnum):
    """What the photos show, with regard to one policy."""

    ORDINARY = 0
    LOOKALIKE = 1
    """An allowed thing of the same neighbourhood: a drill, a genuine shoe, a sale banner."""

    SUSPECT = 2
    """A thing that only its text allows or bans."""

    TELLING = 3
    """A banned thing, recognisable as such."""

    OVERLAY = 4
    """The telling words stand in the picture and not in the text."""


class Words(IntEnum):
    """What title and description say, with regard to one policy."""

    ORDINARY = 0
    BLAND = 1
    """Nothing about the thing at all."""

    LOOKALIKE = 2
    """Names an allowed thing; may well hold a listed keyword."""

    SUSPECT = 3
    """Words that only the photo allows or bans."""

    CODED = 4
    """Telling to whoever learned it, without a listed keyword."""

    EXPLICIT = 5


@dataclass(frozen=True)
class Scene:
    """One combination of photo and words; `share` among the violations, or the lookalikes, of one policy."""

    name: str
    photo: Photo
    words: Words
    violates: bool
    share: float


SCENES: Final = (
    Scene("photo_tells", Photo.TELLING, Words.BLAND, True, 0.11),
    Scene("photo_tells_words_lie", Photo.TELLING, Words.LOOKALIKE, True, 0.04),
    Scene("photo_tells_words_hint", Photo.TELLING, Words.SUSPECT, True, 0.03),
    Scene("words_tell", Photo.ORDINARY, Words.EXPLICIT, True, 0.08),
    Scene("words_tell_coded", Photo.ORDINARY, Words.CODED, True, 0.06),
    Scene("words_in_photo", Photo.OVERLAY, Words.BLAND, True, 0.04),
    Scene("both_tell", Photo.TELLING, Words.EXPLICIT, True, 0.205),
    Scene("both_tell_coded", Photo.TELLING, Words.CODED, True, 0.13),
    Scene("needs_both", Photo.SUSPECT, Words.SUSPECT, True, 0.19),
    Scene("undecidable", Photo.SUSPECT, Words.BLAND, True, 0.115),
    Scene("honest_lookalike", Photo.LOOKALIKE, Words.LOOKALIKE, False, 0.41),
    Scene("honest_photo_explained", Photo.SUSPECT, Words.LOOKALIKE, False, 0.22),
    Scene("honest_words_explained", Photo.LOOKALIKE, Words.SUSPECT, False, 0.26),
    Scene("honest_bland", Photo.LOOKALIKE, Words.BLAND, False, 0.057),
    Scene("honest_undecidable", Photo.SUSPECT, Words.BLAND, False, 0.04),
    Scene("honest_prop", Photo.TELLING, Words.LOOKALIKE, False, 0.013),
    Scene("ordinary", Photo.ORDINARY, Words.ORDINARY, False, 0.0),
    Scene("ordinary_bland", Photo.ORDINARY, Words.BLAND, False, 0.0),
)
SCENE_INDEX: Final = {scene.name: index for index, scene in enumerate(SCENES)}
VIOLATIONS: Final = tuple(scene for scene in SCENES if scene.violates)
LOOKALIKES: Final = tuple(scene for scene in SCENES if not scene.violates and scene.share > 0)
ORDINARY_BLAND_SHARE: Final = 0.03


@dataclass(frozen=True)
class Cell:
    """What a listing is: its scene and the policy that the scene is about (None for an ordinary listing)."""

    scene: Scene
    policy: str | None

    @property
    def violated(self) -> str | None:
        """The policy that the listing violates; None when it is honest."""
        return self.policy if self.scene.violates else None

    @property
    def code(self) -> int:
        """A small number that stands for the cell."""
        policy = 0 if self.policy is None else POLICIES.index(self.policy) + 1
        return SCENE_INDEX[self.scene.name] * (len(POLICIES) + 1) + policy

    @classmethod
    def from_code(cls, code: int) -> "Cell":
        """Return the cell that `code` stands for."""
        scene, policy = divmod(code, len(POLICIES) + 1)
        return cls(SCENES[scene], POLICIES[policy - 1] if policy else None)


def _mass(scene: Scene, config: WorldConfig) -> float:
    return scene.share * (1.0 if scene.violates else config.lookalikes_per_violation)


@cache
def _posterior(config: WorldConfig, photo: Photo | None, words: Words | None) -> float:
    seen = [
        scene
        for scene in SCENES
        if scene.share > 0 and photo in (None, scene.photo) and words in (None, scene.words)
    ]
    total = sum(_mass(scene, config) for scene in seen)
    if photo in (None, Photo.ORDINARY) and words in (None, Words.BLAND):
        share = ORDINARY_BLAND_SHARE if words is Words.BLAND else 1.0
        total += share / config.prevalence
    bad = sum(_mass(scene, config) for scene in seen if scene.violates)
    return bad / total if total else 0.0


def oracle_probability(cell: Cell, config: WorldConfig, policy: str) -> float:
    """Return the best probability of a violation of `policy` for who sees the kinds of photo and words of `cell`."""
    if cell.policy != policy:
        return 0.0
    return _posterior(config, cell.scene.photo, cell.scene.words)


def needs_both(scene: Scene, config: WorldConfig) -> bool:
    """Return whether neither photo nor words alone make the violation likelier than not, but both together do."""
    return (
        scene.violates
        and _posterior(config, scene.photo, None) < 0.5
        and _posterior(config, None, scene.words) < 0.5
        and _posterior(config, scene.photo, scene.words) >= 0.5
    )
