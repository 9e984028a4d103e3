"""Who sells: honest people, shops of lookalike goods, and sellers who mean harm, alone or in campaigns."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import numpy as np

from marketplace.config import LANGUAGES, POLICIES

REGIONS: Final = {
    "en": (("US", "USD"), ("GB", "GBP"), ("AU", "AUD")),
    "de": (("DE", "EUR"), ("AT", "EUR"), ("CH", "CHF")),
    "es": (("ES", "EUR"), ("MX", "MXN"), ("AR", "ARS")),
    "ru": (("KZ", "KZT"), ("RS", "RSD"), ("UA", "UAH")),
    "id": (("ID", "IDR"), ("MY", "MYR")),
}
_LANGUAGE_SHARES: Final = (0.46, 0.14, 0.15, 0.12, 0.13)
_MAX_ASSETS: Final = 12
_SHARED_DEVICE: Final = 0.20
_SHARED_ADDRESS: Final = 0.25
_HOUSEHOLD: Final = 3
_MAIN_POLICY: Final = 0.8


ORDINARY_RATE: Final = 0.35
LOOKALIKE_RATE: Final = 0.5
HARM_RATE: Final = 0.9
"""Mean submissions a day; each seller's own rate spreads around its kind's."""

HARM_SHARE: Final = 4 / 7.5
"""Mean share of violations among what a harmful seller lists; the rest is cover."""

LOOKALIKE_SHARE: Final = 0.8
"""Share of lookalike goods among what their sellers list."""


class Intent(StrEnum):
    """Why a seller is here."""

    ORDINARY = "ordinary"
    LOOKALIKE = "lookalike"
    HARM = "harm"


@dataclass(frozen=True)
class Asset:
    """A thing that was photographed: every photo of it shows the same object before the same background."""

    asset_id: str
    kind: str
    level: int
    brand: int
    seed: int


@dataclass
class Wardrobe:
    """The assets that a seller, or a whole campaign, can show again; the oldest go first."""

    assets: dict[str, list[Asset]] = field(default_factory=dict)

    def add(self, key: str, asset: Asset) -> None:
        """Remember `asset` under `key`."""
        kept = self.assets.setdefault(key, [])
        kept.append(asset)
        del kept[:-_MAX_ASSETS]


@dataclass
class Campaign:
    """Sellers who act as one: shared devices, addresses, templates and photos."""

    campaign_id: str
    policy: str
    language: str
    device: str
    address: str
    wardrobe: Wardrobe = field(default_factory=Wardrobe)


@dataclass
class Seller:
    """One seller account and what it has learned so far."""

    seller_id: str
    number: int
    intent: Intent
    policy: str
    language: str
    region: str
    currency: str
    device: str
    address: str
    rate_per_day: float
    leaves_after_days: float
    born_day: int
    harm_share: float = 0.0
    campaign: Campaign | None = None
    wardrobe: Wardrobe = field(default_factory=Wardrobe)
    strikes: int = 0
    is_gone: bool = False
    open_submissions: int = 0

    @property
    def campaign_id(self) -> str:
        """The campaign's id; empty for a seller on its own."""
        return self.campaign.campaign_id if self.campaign else ""


def draw_seller(
    number: int,
    intent: Intent,
    day: int,
    rng: np.random.Generator,
    *,
    campaign: Campaign | None = None,
    device: str | None = None,
) -> Seller:
    """Return a new seller; one of a campaign takes over its language, policy and some of its traces."""
    language = campaign.language if campaign else str(rng.choice(LANGUAGES, p=_LANGUAGE_SHARES))
    region, currency = REGIONS[language][int(rng.integers(len(REGIONS[language])))]
    policy = campaign.policy if campaign else POLICIES[int(rng.integers(len(POLICIES)))]
    own_device, address = _traces(number, rng)
    if campaign:
        own_device = campaign.device if rng.random() < 0.6 else own_device
        address = campaign.address if rng.random() < 0.6 else address
    spread = rng.lognormal(-0.32, 0.8)
    base, life = {
        Intent.ORDINARY: (ORDINARY_RATE, 13.0),
        Intent.LOOKALIKE: (LOOKALIKE_RATE, 18.0),
        Intent.HARM: (HARM_RATE, 18.0),
    }[intent]
    return Seller(
        seller_id=f"u-{number}",
        number=number,
        intent=intent,
        policy=policy,
        language=language,
        region=region,
        currency=currency,
        device=device or own_device,
        address=address,
        rate_per_day=base * spread,
        leaves_after_days=float(rng.exponential(life)) + 2,
        born_day=day,
        harm_share=float(rng.beta(4, 3.5)) if intent is Intent.HARM else 0.0,
        campaign=campaign,
    )


def policy_of_act(seller: Seller, rng: np.random.Generator) -> str:
    """Return the policy that the seller's next act is about: mostly its own."""
    if rng.random() < _MAIN_POLICY:
        return seller.policy
    return POLICIES[int(rng.integers(len(POLICIES)))]


def _traces(number: int, rng: np.random.Generator) -> tuple[str, str]:
    """Return device and address; neighbours in order of birth may share theirs, so that nothing chains further."""
    shared = rng.random(2) < (_SHARED_DEVICE, _SHARED_ADDRESS)
    home = number // _HOUSEHOLD
    return f"d-home-{home}" if shared[0] else f"d-{number}", (
        f"a-home-{home}" if shared[1] else f"a-{number}"
    )
