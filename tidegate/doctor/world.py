"""The doctor's marketplace: plain enough that a tiny model is really good, put into a ledger as real listings are.

Sellers come with a past, so that age and size differ; listings come with reviewed truth. A share of everything arrives
after the last training day: recorded traffic to replay, and truth that no model has seen.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import yaml

from components.home import Home
from ledger.events import Event, from_ground_truth, from_report, from_submission
from ledger.ledger import SqliteLedger
from ledger.store import ContentStore
from marketplace.evasion import Evasion
from moderation.listing import GroundTruth, Listing, Report, Submission, TruthSource
from tidegate.doctor.goods import CATEGORIES, LANGUAGES, REGIONS, Words, photo, text, vocabulary

START: Final = datetime(2024, 1, 1, tzinfo=UTC)
"""Its last day must be in the past: a feature store counts nothing that has not come yet."""
EARLY_DAY: Final = START + timedelta(days=400)
"""The champion was trained on what was known then."""

LAST_DAY: Final = START + timedelta(days=440)
"""The candidate was trained on what was known then."""

END: Final = START + timedelta(days=448)
REPLAYED_FROM: Final = END - timedelta(days=1)

_EARLY_SHARE: Final = 0.35
_TRICKS: Final = (Evasion.LEET, Evasion.SEPARATORS, Evasion.HOMOGLYPH, Evasion.ZERO_WIDTH)
_TWO_PHOTOS: Final = 0.65
_NO_PHOTO: Final = 0.08
_PLAIN_WORDS, _PLAIN_PHOTO = 0.2, 0.04
"""Violations that only their photos tell, and those that only their words do."""

_NO_TEXT: Final = 0.03
_NEW_DAYS: Final = 3.0
_TIERS: Final = {
    "tag": {"precision": 0.6},
    "review": {"precision": 0.955, "max_share": 0.01},
    "block": {"precision": 0.972},
    "suspend": {"precision": 0.994},
}
_REVIEW_DELAY: Final = timedelta(hours=30)


@dataclass(frozen=True)
class Size:
    """How many sellers of each kind there are."""

    violators: int = 2_200
    """Per policy."""

    lookalike: int = 400
    """Honest sellers with photos who say telling words with an explanation."""

    ordinary: int = 800
    """Other honest sellers."""

    unsure: int = 500
    """Per policy: their words only hint, and three in ten of them violate."""

    newcomers: int = 960
    """Sellers of the days after the last training; the honest ones come on the last of them, which is replayed, and so
    does every second violator.
    """


@dataclass(frozen=True)
class _Seller:
    seller_id: str
    policy: int | None
    kind: str
    """`violator`, `lookalike`, `ordinary`, `unsure`."""

    language: str
    region: str
    first_listing: datetime
    age_days: float
    num_past: int
    split: str


@dataclass
class DoctorWorld:
    """Draws the events of the world; the same seed gives the same bytes."""

    policy_ids: tuple[str, ...]
    seed: int
    size: Size = field(default_factory=Size)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        self._words = vocabulary(len(self.policy_ids))

    def fill(self, home: Home) -> int:
        """Write the world into the ledger and the content store of `home`; return the number of events."""
        store = ContentStore(home.content)
        return SqliteLedger(home.ledger).append(
            event for seller in self._sellers() for event in self._events(seller, store)
        )

    def _sellers(self) -> Iterator[_Seller]:
        num_policies, number = len(self.policy_ids), 0
        for policy in range(num_policies):
            for kind, count in (("violator", self.size.violators), ("unsure", self.size.unsure)):
                for _ in range(count):
                    yield self._seller(number, kind, policy, late=False)
                    number += 1
        for kind, count in (("lookalike", self.size.lookalike), ("ordinary", self.size.ordinary)):
            for _ in range(count):
                yield self._seller(number, kind, None, late=False)
                number += 1
        for late in range(self.size.newcomers):
            guilty = late % 3 == 0
            policy_or_none = late // 3 % num_policies if guilty else None
            kind = "violator" if guilty else ("lookalike" if late % 3 == 1 else "ordinary")
            yield self._seller(number, kind, policy_or_none, late=True)
            number += 1

    def _seller(self, number: int, kind: str, policy: int | None, *, late: bool) -> _Seller:
        rng = self._rng
        begin, end = EARLY_DAY - timedelta(days=20), EARLY_DAY - timedelta(days=3)
        if late:
            is_early = kind == "violator" and number % 2 == 0
            begin, end = LAST_DAY if is_early else REPLAYED_FROM, END - timedelta(hours=12)
        elif rng.random() > _EARLY_SHARE:
            begin, end = EARLY_DAY, LAST_DAY - timedelta(days=3)
        age = int(rng.integers(3))
        days = float(rng.uniform(*((0.05, 2.5), (5.0, 12.0), (30.0, 80.0))[age]))
        past = (int(rng.integers(0, 2)), 3, 9)
        return _Seller(
            seller_id=f"s{number}",
            policy=policy,
            kind=kind,
            language=str(rng.choice(LANGUAGES)),
            region=str(rng.choice(REGIONS)),
            first_listing=begin + (end - begin) * float(rng.random()),
            age_days=days,
            num_past=past[int(rng.choice(3, p=(0.46, 0.27, 0.27)))],
            split="test" if rng.random() < 0.55 else "train",
        )

    def _events(self, seller: _Seller, store: ContentStore) -> Iterator[Event]:
        yield from self._past(seller)
        if seller.kind == "violator":
            twice, repents = (self._rng.random(2) < (0.15, 0.3)).tolist()
            guilty = [True] * (1 + twice) + [False] * repents
        elif seller.kind == "unsure":
            guilty = [int(seller.seller_id[1:]) % 10 in (0, 3, 6)]
        else:
            guilty = [False] * int(self._rng.integers(2, 5))
        for number, violates in enumerate(guilty):
            at = seller.first_listing + timedelta(hours=3 * number, minutes=7)
            yield from self._listing(seller, number, violates, at, store)

    def _past(self, seller: _Seller) -> Iterator[Event]:
        """Yield unreviewed uploads: the first one says how old the seller is, the others how busy."""
        first = seller.first_listing - timedelta(days=seller.age_days)
        window = min(seller.age_days, 25.0)
        busy = [
            seller.first_listing - timedelta(days=window * (n + 1) / (seller.num_past + 2))
            for n in range(seller.num_past)
        ]
        earlier = [first, *reversed(busy)] if seller.age_days > _NEW_DAYS or busy else []
        for number, at in enumerate(earlier):
            listing = Listing(
                listing_id=f"{seller.seller_id}-p{number}", seller_id=seller.seller_id
            )
            past = Submission(
                submission_id=f"{seller.seller_id}-p{number}",
                listing=listing,
                submitted_at=at,
                attributes={"split": seller.split},
            )
            yield from_submission(past, recorded_at=at)
        if earlier and self._rng.random() < (0.5 if seller.kind == "violator" else 0.1):
            report = Report(
                report_id=f"{seller.seller_id}-r",
                submission_id=f"{seller.seller_id}-p0",
                reported_at=seller.first_listing - timedelta(minutes=30),
            )
            yield from_report(report, recorded_at=report.reported_at, seller_id=seller.seller_id)

    def _listing(
        self, seller: _Seller, number: int, violates: bool, at: datetime, store: ContentStore
    ) -> Iterator[Event]:
        shown = self._shown(seller, violates)
        title, description = ("", "")
        if shown.words is not None:
            words = self._words[seller.language]
            title, description = text(self._rng, words, shown.words, shown.trick)
        images = [photo(self._rng, pattern, len(self.policy_ids)) for pattern in shown.photos]
        for image in images:
            store.put(image, seller.seller_id)
        submission = Submission(
            submission_id=f"{seller.seller_id}-{number}",
            listing=Listing(
                listing_id=f"{seller.seller_id}-{number}",
                seller_id=seller.seller_id,
                device_fingerprint=f"device-{seller.seller_id}",
                address_fingerprint=f"address-{seller.seller_id}",
                title=title,
                description=description,
                price=round(float(np.exp(self._rng.normal(3, 0.6))), 2),
                currency="EUR",
                category=str(self._rng.choice(CATEGORIES)),
                region=seller.region,
                language=seller.language,
            ),
            image_digests=tuple(hashlib.sha256(image).hexdigest() for image in images),
            submitted_at=at,
            attributes={"split": seller.split, "evasion": shown.evasion} | shown.likeness,
        )
        yield from_submission(submission, recorded_at=at)
        known_at = at + _REVIEW_DELAY
        for column, policy in enumerate(self.policy_ids):
            truth = GroundTruth(
                submission_id=submission.submission_id,
                policy=policy,
                violates=violates and column == seller.policy,
                source=TruthSource.REVIEW,
                reviewed_at=known_at,
                known_at=known_at,
                adjudicated=True,
            )
            yield from_ground_truth(truth, recorded_at=known_at, seller_id=seller.seller_id)

    def _shown(self, seller: _Seller, violates: bool) -> "_Shown":
        """Return what a listing shows, less what it lacks: that is left to chance, whatever the listing is."""
        shown = self._meant(seller, violates)
        way = float(self._rng.random())
        if way < _NO_TEXT:
            return replace(shown, words=None)
        return replace(shown, photos=()) if way < _NO_TEXT + _NO_PHOTO else shown

    def _meant(self, seller: _Seller, violates: bool) -> "_Shown":
        rng, words, policy = self._rng, self._words[seller.language], seller.policy
        number = 1 + int(rng.random() < _TWO_PHOTOS)
        if seller.kind == "unsure":
            assert policy is not None
            return _Shown((words.hints[policy],), (None,) * number)
        if not violates:
            return self._honest(words, number, explains=seller.kind == "lookalike")
        assert policy is not None
        telling = tuple(str(w) for w in rng.choice(words.telling[policy], 2, replace=False))
        way, trick = float(rng.random()), self._trick(0.4)
        if way < _PLAIN_WORDS:
            return _Shown((), (policy,) * number)
        return _Shown(
            telling, (None if way < _PLAIN_WORDS + _PLAIN_PHOTO else policy,) * number, trick
        )

    def _honest(self, words: Words, num_photos: int, *, explains: bool) -> "_Shown":
        rng, photos = self._rng, (None,) * num_photos
        if not explains:
            return _Shown((), photos, self._trick(0.3))
        policy = int(rng.integers(len(self.policy_ids)))
        before, after = words.explaining
        said = (before, str(rng.choice(words.telling[policy])), after)
        likeness = {"hard_negative": self.policy_ids[policy]}
        return _Shown(said, photos, self._trick(0.3), likeness)

    def _trick(self, chance: float) -> Evasion:
        if self._rng.random() >= chance:
            return Evasion.NONE
        return _TRICKS[int(self._rng.integers(len(_TRICKS)))]


@dataclass(frozen=True)
class _Shown:
    """What one listing shows."""

    words: tuple[str, ...] | None
    """Said beside everyday words; None for a listing without text."""

    photos: tuple[int | None, ...]
    """One photo each, with a policy's flag or an honest one."""

    trick: Evasion = Evasion.NONE
    likeness: dict[str, str] = field(default_factory=dict)
    """Of which policy's violations it is a look-alike."""

    @property
    def evasion(self) -> str:
        return str(self.trick)


def policy_text(path: Path) -> str:
    """Return the text of a policy file with keywords and bounds of the doctor's world.

    Its violations are many times as frequent as real ones, so that reviewers can take no more than the sure ones. Tiers
    open at a higher precision than the contract certifies: a threshold that just meets a bound where it was solved
    misses it every other time where it is tested.
    """
    content = yaml.safe_load(path.read_bytes())
    words = vocabulary(len(content["policies"]))
    for column, policy in enumerate(content["policies"]):
        policy["tiers"] = _TIERS
        policy["keywords"] = [w for one in words.values() for w in one.telling[column]]
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
