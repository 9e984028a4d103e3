"""One submission's content: which scene a seller plays next, and the listing and photos made from it."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

import numpy as np

from marketplace.camera import photograph
from marketplace.config import DriftKind, WorldConfig
from marketplace.evasion import TRICKS, Evasion, fashion
from marketplace.scenes import (
    LOOKALIKES,
    ORDINARY_BLAND_SHARE,
    SCENE_INDEX,
    SCENES,
    VIOLATIONS,
    Cell,
    Photo,
    Scene,
    Words,
    needs_both,
)
from marketplace.sellers import LOOKALIKE_SHARE, Asset, Intent, Seller, policy_of_act
from marketplace.wording import BRANDS, Topic, compose, live_template
from moderation.listing import Listing

ORDINARY_THINGS: Final = tuple("lamp chair mug book phone ball bottle plant shirt table".split())
_FILLERS: Final = ("box", "closeup", *ORDINARY_THINGS)
_PHOTO_KINDS: Final = {
    ("weapons", Photo.TELLING): ("pistol", "revolver", "rifle"),
    ("weapons", Photo.SUSPECT): ("gun", "gun", "knife"),
    ("weapons", Photo.LOOKALIKE): ("drill", "glue_gun", "water_gun", "holster", "kitchen_knife"),
    ("spam", Photo.TELLING): ("contact_banner",),
    ("spam", Photo.SUSPECT): ("card",),
    ("spam", Photo.LOOKALIKE): ("banner",),
}
_GOODS: Final = ("sneaker", "handbag", "watch")
_FIREARMS: Final = frozenset({"pistol", "revolver", "rifle"})
_NUM_IMAGES: Final = np.array([0.07, 0.52, 0.24, 0.09, 0.04, 0.015, 0.01, 0.0075, 0.0075])
_CATEGORIES: Final = ("home", "fashion", "electronics", "sports", "toys", "tools", "hobby", "other")
_NEAR: Final = {
    "weapons": ("sports", "toys", "tools", "hobby"),
    "counterfeit": ("fashion", "fashion", "sports", "hobby"),
    "spam": ("other", "electronics", "home", "other"),
}
_NEAR_SHARE: Final = 0.5
_RATE: Final = {
    "IDR": 16_000.0,
    "KZT": 480.0,
    "RSD": 108.0,
    "UAH": 41.0,
    "ARS": 950.0,
    "MXN": 18.0,
    "MYR": 4.6,
}
_OVERLAYS: Final = {
    "weapons": ("GLOCK 19 REAL 9MM", "PISTOL + AMMO", "REAL STEEL, NO ID"),
    "counterfeit": ("1:1 MIRROR COPY", "AAA REPLICA", "SUPERCLONE TOP"),
    "spam": ("WHATSAPP ONLY", "TELEGRAM CASH", "DM FOR FREE MONEY"),
}
_HONEST_OVERLAY: Final = 0.06
_HONEST_OVERLAYS: Final = (
    "NEW, SIZE M",
    "FREE SHIPPING TODAY",
    "2 FOR 1",
    "MY SHOP, EST. 2012",
    "PLEASE READ",
    "SOLD AS SET",
)
_REUSE: Final = 0.35
_CAMPAIGN_REUSE: Final = 0.5


@dataclass(frozen=True)
class Plan:
    """What is going to be submitted; a later attempt of the same listing keeps it and hides it better."""

    seller: Seller
    cell: Cell
    topic: Topic
    asset: Asset | None
    listing_id: str
    attempt: int = 0


@dataclass(frozen=True)
class Offer:
    """A finished listing with its photos and the attributes for slicing."""

    listing: Listing
    images: tuple[bytes, ...]
    attributes: dict[str, str]


def plan(seller: Seller, number: int, rng: np.random.Generator) -> Plan:
    """Return what `seller` lists next; `number` is the submission's."""
    cell = _draw_cell(seller, rng)
    kind = _photo_kind(cell, rng)
    brand = int(rng.integers(len(BRANDS)))
    asset = None
    if cell.scene.photo is not Photo.ORDINARY or kind is not None:
        asset = _find_asset(seller, cell, kind or "box", brand, rng)
        kind, brand = asset.kind, asset.brand
    return Plan(seller, cell, Topic(_subject(cell, kind, rng), brand), asset, f"l-{number}")


def _draw_cell(seller: Seller, rng: np.random.Generator) -> Cell:
    policy = policy_of_act(seller, rng)
    if rng.random() < seller.harm_share:
        return Cell(_draw_scene(VIOLATIONS, rng), policy)
    chance = {Intent.LOOKALIKE: LOOKALIKE_SHARE, Intent.HARM: 0.3, Intent.ORDINARY: 0.0}
    if rng.random() < chance[seller.intent]:
        return Cell(_draw_scene(LOOKALIKES, rng), policy)
    name = "ordinary_bland" if rng.random() < ORDINARY_BLAND_SHARE else "ordinary"
    return Cell(SCENES[SCENE_INDEX[name]], None)


def _draw_scene(scenes: tuple[Scene, ...], rng: np.random.Generator) -> Scene:
    shares = np.array([scene.share for scene in scenes])
    return scenes[int(rng.choice(len(scenes), p=shares / shares.sum()))]


def _photo_kind(cell: Cell, rng: np.random.Generator) -> str | None:
    photo = cell.scene.photo
    if cell.policy is None or photo in (Photo.ORDINARY, Photo.OVERLAY):
        kinds: tuple[str, ...] = ORDINARY_THINGS
    elif cell.policy == "counterfeit":
        kinds = _GOODS
    else:
        kinds = _PHOTO_KINDS[cell.policy, photo]
    return kinds[int(rng.integers(len(kinds)))]


def _subject(cell: Cell, kind: str | None, rng: np.random.Generator) -> str:
    """Return what the words call the thing: firearms go as toys where the words lie."""
    if cell.policy is None:
        return kind if kind in ORDINARY_THINGS else ORDINARY_THINGS[int(rng.integers(10))]
    if cell.policy == "counterfeit":
        return kind if kind in _GOODS else _GOODS[int(rng.integers(3))]
    if cell.policy == "spam":
        return "banner" if kind == "banner" else "card"
    return "gun" if kind in _FIREARMS or kind in ORDINARY_THINGS else str(kind)


def _find_asset(
    seller: Seller, cell: Cell, kind: str, brand: int, rng: np.random.Generator
) -> Asset:
    wardrobe, reuse = seller.wardrobe, _REUSE
    if seller.campaign and cell.scene.violates and rng.random() < 0.7:
        wardrobe, reuse = seller.campaign.wardrobe, _CAMPAIGN_REUSE
    key = f"{cell.policy}:{cell.scene.photo}"
    known = wardrobe.assets.get(key, [])
    if known and rng.random() < reuse:
        return known[int(rng.integers(len(known)))]
    seed = int(rng.integers(2**62))
    asset = Asset(f"p-{seed:016x}", kind, int(cell.scene.photo), brand, seed)
    wardrobe.add(key, asset)
    return asset


def make_offer(
    config: WorldConfig, intended: Plan, at: datetime, rng: np.random.Generator
) -> Offer:
    """Return the listing and photos of `intended` as they look at `at`."""
    day, seller, cell = at.date(), intended.seller, intended.cell
    age = (day - config.start).days
    progress = min(1.0, age / config.days)
    trick = _draw_trick(config, day, progress, intended, rng)
    skew = float(intended.attempt > 0 or (cell.scene.violates and rng.random() < 0.6 * progress))
    template = live_template(
        config.seed, seller.language, age, _template_chance(config, seller, age, rng)
    )
    title, description = compose(
        cell, intended.topic, template, language=seller.language, trick=trick, rng=rng
    )
    images = _photos(config, intended, day, skew=skew, rng=rng)
    attributes = {"template": template.template_id}
    if intended.asset and images:
        attributes["asset"] = intended.asset.asset_id
    if seller.campaign:
        attributes["campaign"] = seller.campaign.campaign_id
    if cell.scene.violates:
        attributes["evasion"] = _evasion_slice(cell, trick, skew)
    elif cell.policy:
        attributes["hard_negative"] = cell.policy
    if needs_both(cell.scene, config):
        attributes["needs_both"] = "true"
    facts = _facts(config, intended, day, rng)
    listing = Listing(
        listing_id=intended.listing_id,
        seller_id=seller.seller_id,
        title=title,
        description=description,
        language=seller.language,
        device_fingerprint=seller.device,
        address_fingerprint=seller.address,
        **facts,
    )
    return Offer(listing, images, attributes)


def _draw_trick(
    config: WorldConfig, day: date, progress: float, intended: Plan, rng: np.random.Generator
) -> Evasion:
    if not intended.cell.scene.violates or intended.cell.scene.words < Words.CODED:
        return Evasion.NONE
    chances = fashion(progress, config.drift(DriftKind.NEW_EVASION, day))
    if intended.attempt:
        chances[TRICKS.index(Evasion.NONE)] = 0
    return TRICKS[int(rng.choice(len(TRICKS), p=chances / chances.sum()))]


def _evasion_slice(cell: Cell, trick: Evasion, skew: float) -> str:
    if cell.scene.photo is Photo.OVERLAY:
        return "text_in_image"
    if trick is not Evasion.NONE:
        return trick.value
    if cell.scene.words in (Words.BLAND, Words.LOOKALIKE):
        return "bland_title" if not skew else "rotation_crop"
    return "rotation_crop" if skew and cell.scene.photo is not Photo.ORDINARY else "none"


def _template_chance(
    config: WorldConfig, seller: Seller, age: int, rng: np.random.Generator
) -> float:
    """Sellers keep to three templates of their time; a campaign's members share one of theirs."""
    habit, style = age // 15, int(rng.integers(3))
    owner = (31, seller.number)
    if seller.campaign and rng.random() < 0.35:
        owner, style = (32, int(seller.campaign.campaign_id[2:])), 0
    return float(np.random.default_rng((config.seed, *owner, habit, style)).random())


def _facts(
    config: WorldConfig, intended: Plan, day: date, rng: np.random.Generator
) -> dict[str, float | str | None]:
    seller, cell = intended.seller, intended.cell
    near = cell.policy is not None and rng.random() < _NEAR_SHARE
    pool = _NEAR[str(cell.policy)] if near else _CATEGORIES
    level = 3.4 + (0.3 if cell.policy else 0.0) - (0.25 if cell.scene.violates else 0.0)
    price = round(float(np.exp(rng.normal(level, 0.9))) * _RATE.get(seller.currency, 1.0), 2)
    facts: dict[str, float | str | None] = {
        "price": price,
        "currency": seller.currency,
        "category": pool[int(rng.integers(len(pool)))],
        "region": seller.region,
    }
    if rng.random() < config.drift(DriftKind.SCHEMA_FAULT, day):
        facts |= {"price": min(price * 100, 1e9), "category": "unknown", "region": None}
    return facts


def _photos(
    config: WorldConfig, intended: Plan, day: date, *, skew: float, rng: np.random.Generator
) -> tuple[bytes, ...]:
    count = int(rng.choice(len(_NUM_IMAGES), p=_NUM_IMAGES))
    asset = intended.asset
    if asset and intended.cell.scene.photo is not Photo.ORDINARY:
        count = max(count, 1)
    telling = int(rng.integers(count)) if count else -1
    worn = rng.random() < config.drift(DriftKind.CAMERA_CHANGE, day)
    if rng.random() < config.drift(DriftKind.MODALITY_BROKEN, day):
        return (_BLANK,) * count
    overlay = ""
    if intended.cell.scene.photo is Photo.OVERLAY:
        words = _OVERLAYS[str(intended.cell.policy)]
        overlay = words[int(rng.integers(len(words)))]
    elif rng.random() < _HONEST_OVERLAY:
        overlay = _HONEST_OVERLAYS[int(rng.integers(len(_HONEST_OVERLAYS)))]
    photos = []
    for index in range(count):
        shown = asset if asset and index == telling else _filler(rng)
        written = overlay if index == telling else ""
        photos.append(photograph(shown, rng, overlay=written, skew=skew, worn=worn))
    return tuple(photos)


def _filler(rng: np.random.Generator) -> Asset:
    seed = int(rng.integers(2**62))
    kind = _FILLERS[int(rng.integers(len(_FILLERS)))]
    return Asset(f"p-{seed:016x}", kind, int(Photo.ORDINARY), 0, seed)


def _blank() -> bytes:
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.new("RGB", (192, 192), (128, 128, 128)).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


_BLANK: Final = _blank()
