"""Golden listings under attack: the same changes on violations and on innocent listings, answered by both bundles.

R attacked rows.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from components.prove.frozen import FrozenRows
from components.prove.opponents import Opponents
from moderation.attacks import registry
from moderation.attacks.registry import ATTACKS, GATE, SOURCE, Subject, digest_source
from moderation.embedding_cache import made_key
from moderation.errors import PermanentError
from moderation.gates.evidence import AttackOutcome
from moderation.image import decode
from moderation.release import Suite
from moderation.rescoring import LazyImage, LazyItem

Indices = npt.NDArray[np.int64]
Attacked = Mapping[str, Sequence[tuple[int, LazyItem]]]
"""Attack -> rows of the golden set with the attacked listing."""

# Stands for an image whose pixels are not needed: what becomes of texts and of the number of images depends on none.
_PLACEHOLDER_SIDE: Final = 64


@dataclass(frozen=True)
class Chosen:
    """Rows of the golden set that are attacked."""

    violations: Indices
    innocents: Indices

    @property
    def rows(self) -> Indices:
        """Both, in the order of the set."""
        return np.union1d(self.violations, self.innocents)


def choose(golden: FrozenRows, suite: Suite, seed: int) -> Chosen:
    """Return the rows to attack, drawn by the seed: violations of every policy, and innocents, look-alikes first."""
    order = np.random.default_rng(seed).permutation(len(golden.items))
    violations: set[int] = set()
    for column in range(len(golden.policies)):
        guilty = order[golden.truth_NP[order, column] == 1]
        violations.update(guilty[: suite.violations_per_policy].tolist())
    innocent = order[_innocent(golden)[order]].tolist()
    innocent.sort(key=lambda row: not _is_look_alike(golden, row))
    return Chosen(
        np.array(sorted(violations), np.int64),
        np.array(sorted(innocent[: suite.innocents]), np.int64),
    )


def attacked_listings(
    golden: FrozenRows, chosen: Chosen, words: Sequence[str], *, source: Path = SOURCE
) -> Attacked:
    """Return by attack, of every one that is registered, the rows that it can change with what it makes of them.

    It asks no bundle: the same listings are put to every candidate. Images are changed when somebody loads them.

    Args:
        golden: gives the listings.
        chosen: which of them are attacked, at the severity that gates judge.
        words: telling words of all policies.
        source: folder of the attacks' code, which names what is cached of attacked images.

    Raises:
        PermanentError: if there is no attack, or one gives a listing that could not be submitted.
    """
    if not ATTACKS:
        raise PermanentError("no attack is registered: nothing would be shown")
    neighbours, code = _Neighbours(golden), digest_source(source)
    targets = [
        _Target.of(golden, int(row), neighbours.of(golden, int(row)), words, code)
        for row in chosen.rows
    ]
    found = {}
    for name in ATTACKS:
        attacked = [(target.row, target.attacked(name)) for target in targets]
        found[name] = tuple((row, item) for row, item in attacked if item is not None)
    return found


def attack_outcomes(
    listings: Attacked, opponents: Opponents, progress: Callable[[int, int], None]
) -> list[AttackOutcome]:
    """Return what every attack does.

    Args:
        listings: from `attacked_listings`.
        opponents: answer.
        progress: called with (attacks done, attacks in all).

    Raises:
        PermanentError: if an attack depends on pixels where it must not.
    """
    outcomes = []
    for number, (name, attacked) in enumerate(listings.items(), start=1):
        items = [item for _, item in attacked]
        candidate_RP, champion_RP = opponents.probabilities("attacks", items)
        row_R = np.array([row for row, _ in attacked], np.int64)
        family = ATTACKS[name].family
        outcomes.append(AttackOutcome(name, family, GATE, row_R, candidate_RP, champion_RP))
        progress(number, len(listings))
    return outcomes


def subjects_of(golden: FrozenRows, words: Sequence[str]) -> Callable[[str], Subject | None]:
    """Return what gives a golden listing as attacks are given it; None where its images are gone or unknown."""
    row_of = {str(record["submission_id"]): row for row, record in enumerate(golden.records)}
    neighbours = _Neighbours(golden)

    def find(submission_id: str) -> Subject | None:
        row = row_of.get(submission_id)
        if row is None:
            return None
        beside = neighbours.of(golden, row)
        try:
            neighbour = None if beside is None else _loaded(golden.items[beside])
            return replace(_loaded(golden.items[row]), words=tuple(words), neighbour=neighbour)
        except PermanentError:  # erased or not decodable: the example lacks its attacked form
            return None

    return find


@dataclass(frozen=True)
class _Target:
    """One listing to attack, its images not yet read."""

    row: int
    key: bytes
    item: LazyItem
    subject: Subject
    """With placeholders in the place of images."""

    neighbour: LazyItem | None
    content: bytes
    """SHA-256 of everything that an attack may read of it, and of the attacks' code."""

    @classmethod
    def of(
        cls, golden: FrozenRows, row: int, beside: int | None, words: Sequence[str], code: str
    ) -> "_Target":
        item, key = golden.items[row], str(golden.records[row]["submission_id"]).encode()
        neighbour = None if beside is None else golden.items[beside]
        subject = replace(
            _placeholders(item),
            words=tuple(words),
            neighbour=None if neighbour is None else _placeholders(neighbour),
        )
        return cls(row, key, item, subject, neighbour, _digest(item, neighbour, words, code))

    def attacked(self, name: str) -> LazyItem | None:
        """Return the listing under an attack; None where the attack has nothing to change."""
        changed = self._apply(name, self.subject)
        if changed is None:
            return None
        images = [self._image(name, place, changed) for place in range(len(changed.images))]
        texts = changed.title, changed.description
        is_made = texts != (self.item.title, self.item.description)
        return replace(
            self.item, title=texts[0], description=texts[1], images=images, is_text_made=is_made
        )

    def _apply(self, name: str, subject: Subject) -> Subject | None:
        try:
            return registry.apply(name, subject, severity=GATE, key=self.key)
        except ValueError as error:
            raise PermanentError(f"{error}; mend the attack") from error

    def _image(self, name: str, place: int, changed: Subject) -> LazyImage:
        image = changed.images[place]
        for subject, item in ((self.subject, self.item), (self.subject.neighbour, self.neighbour)):
            if subject is None or item is None:
                continue
            for placeholder, lazy in zip(subject.images, item.images, strict=True):
                if image is placeholder:
                    return lazy
        said = (name, GATE, place, self.content.hex(), self.key.hex())
        key = made_key(hashlib.sha256(json.dumps(said).encode()).digest())
        return LazyImage(key, partial(self._load, name, place, len(changed.images)))

    def _load(self, name: str, place: int, num_images: int) -> Image.Image:
        """Return one attacked image; only what it is made from is read, if that can be told.

        Raises:
            InvalidListing: if it cannot be decoded.
        """
        images = list(self.subject.images)
        alone = [place] if num_images == len(images) else range(len(images))
        for source in alone:
            images[source] = _pixels(self.item.images[source])
        changed = self._apply(name, replace(self.subject, images=tuple(images)))
        if changed is None or len(changed.images) != num_images:
            raise PermanentError(f"attack {name} depends on pixels; mend the attack")
        return changed.images[place]


def _loaded(item: LazyItem) -> Subject:
    return Subject(item.title, item.description, tuple(map(_pixels, item.images)))


def _pixels(image: LazyImage) -> Image.Image:
    loaded = image.load()
    return decode(loaded) if isinstance(loaded, bytes) else loaded


def _placeholders(item: LazyItem) -> Subject:
    size = (_PLACEHOLDER_SIDE, _PLACEHOLDER_SIDE)
    return Subject(item.title, item.description, tuple(Image.new("RGB", size) for _ in item.images))


def _digest(item: LazyItem, neighbour: LazyItem | None, words: Sequence[str], code: str) -> bytes:
    beside = neighbour or LazyItem()
    texts = [item.title, item.description, beside.title, beside.description, *words]
    keys = [image.key.hex() for one in (item, beside) for image in one.images]
    return hashlib.sha256(json.dumps([code, texts, keys]).encode()).digest()


def _is_look_alike(golden: FrozenRows, row: int) -> bool:
    return bool(json.loads(golden.records[row]["attributes"]).get("hard_negative"))


class _Neighbours:
    """Honest listings with text, by category."""

    def __init__(self, golden: FrozenRows) -> None:
        is_honest_N = _innocent(golden)
        self._all = [
            int(row)
            for row in np.flatnonzero(is_honest_N)
            if golden.items[row].title or golden.items[row].description
        ]
        self._near: defaultdict[str | None, list[int]] = defaultdict(list)
        for row in self._all:
            self._near[golden.records[row]["category"]].append(row)

    def of(self, golden: FrozenRows, row: int) -> int | None:
        """Return a row of the same category where there is one, drawn by this row's own id; never itself."""
        record = golden.records[row]
        drawn = int.from_bytes(hashlib.sha256(record["submission_id"].encode()).digest()[:8], "big")
        for honest in (self._near[record["category"]], self._all):
            others = len(honest) - (row in honest)
            if others:
                found = honest[drawn % others]
                return honest[-1] if found == row else found
        return None


def _innocent(golden: FrozenRows) -> npt.NDArray[np.bool_]:
    """Return which rows are known to be innocent under a policy, and violate none as far as is known."""
    is_innocent_N: npt.NDArray[np.bool_] = (golden.truth_NP == 0).any(axis=1) & ~(
        golden.truth_NP == 1
    ).any(axis=1)
    return is_innocent_N
