"""The attacks that gates judge a candidate under, by name: seeded, of graded severity, meaning kept.

A new attack is one decorated function: given a listing, a severity and a generator it returns the listing as an evader
would submit it. It is judged from then on: at severity 1, on violations and innocent listings alike.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from moderation.listing import MAX_DESCRIPTION_CHARS, MAX_IMAGES, MAX_TITLE_CHARS

ATTACKS_VERSION: Final = 1
"""Part of every seed: raised, it has every attack drawn anew."""

SOURCE: Final = Path(__file__).parent
"""Holds the code of every attack."""

MILD: Final = 0.5
GATE: Final = 1.0
"""The only one that a proof makes and gates judge; the others are there for whoever studies an attack by itself."""
STRONG: Final = 2.0
SEVERITIES: Final = (MILD, GATE, STRONG)

FAMILIES: Final = ("text", "image", "joint")


@dataclass(frozen=True)
class Subject:
    """A listing that is attacked; the attacked listing is another one."""

    title: str
    description: str
    images: tuple[Image.Image, ...] = ()
    """As `image.decode` gave them: upright, RGB."""

    words: tuple[str, ...] = ()
    """Telling words of all policies, which an evader disguises first."""

    neighbour: "Subject | None" = None
    """An honest listing of the same category; None where there is none."""


Change = Callable[[Subject, float, np.random.Generator], Subject | None]
"""Gives the attacked listing, or None where the attack has nothing to change (no text, no image, no neighbour).

An image that it leaves alone is the same object. What becomes of the text and of the number of images depends on no
pixel, and every image has its own part of the generator's stream: so images can be read and changed one by one.
"""


@dataclass(frozen=True)
class Attack:
    """One registered attack."""

    name: str
    family: str
    change: Change
    severities: tuple[float, ...]


ATTACKS: Final[dict[str, Attack]] = {}


def attack(
    name: str, *, family: str, severities: Sequence[float] = SEVERITIES
) -> Callable[[Change], Change]:
    """Register a function as the attack `name`.

    Raises:
        ValueError: if the name is taken, the family unknown or the gate's severity missing.
    """

    def register(change: Change) -> Change:
        if name in ATTACKS:
            raise ValueError(f"two attacks are called {name}")
        if family not in FAMILIES:
            raise ValueError(f"attack {name}: family {family} is none of {FAMILIES}")
        if GATE not in severities:
            raise ValueError(f"attack {name}: no severity {GATE:g}, which gates judge")
        ATTACKS[name] = Attack(name, family, change, tuple(severities))
        return change

    return register


@cache
def digest_source(folder: Path = SOURCE) -> str:
    """Return what names the code of all attacks, read once: what is cached of an attacked listing is of this code."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def apply(name: str, subject: Subject, *, severity: float, key: bytes) -> Subject | None:
    """Return the listing under an attack; None where the attack cannot apply, so that it does not count.

    The same name, severity and key give the same listing, in any process.

    Args:
        name: of the attack, a key of `ATTACKS`.
        subject: what is attacked.
        severity: above 0; 1 is what gates judge.
        key: names the listing, such as its submission id in bytes.

    Raises:
        ValueError: if the severity is not positive and finite, or the attacked listing could not be submitted.
    """
    if not (math.isfinite(severity) and severity > 0):
        raise ValueError(f"attack {name}: severity {severity} must be positive and finite")
    seed = f"{ATTACKS_VERSION}\x1f{name}\x1f{float(severity)!r}\x1f".encode() + key
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(seed).digest(), "big"))
    changed = ATTACKS[name].change(subject, severity, rng)
    if changed is None or _is_same(changed, subject):
        return None
    if (
        len(changed.title) > MAX_TITLE_CHARS
        or len(changed.description) > MAX_DESCRIPTION_CHARS
        or len(changed.images) > MAX_IMAGES
    ):
        raise ValueError(f"attack {name}: the attacked listing breaks a listing's limits")
    return changed


def _is_same(changed: Subject, subject: Subject) -> bool:
    """Return whether nothing was touched; pixels are not compared, which would cost more than it tells."""
    return (
        changed.title == subject.title
        and changed.description == subject.description
        and len(changed.images) == len(subject.images)
        and all(a is b for a, b in zip(changed.images, subject.images, strict=True))
    )
