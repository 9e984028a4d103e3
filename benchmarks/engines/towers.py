"""The towers that are measured: exported once per profile, `clip` with random weights of its real architectures."""

from pathlib import Path
from typing import Final

import numpy as np

from moderation.engines.engine import Array
from moderation.profiles import PROFILES, Profile, TowerSpec
from moderation.reading import IMAGE_FOLDER, TEXT_FOLDER

FOLDER: Final = Path("build/bench/engines")
_SEED: Final = 3
_FIRST_WORD: Final = 4
_RANDOM_CLIP: Final = {
    "image_tower": TowerSpec(source="random", name="vit_base_patch32_clip_224", dim=768),
    "text_tower": TowerSpec(source="random", name="distilbert", dim=768),
}
"""What a forward pass costs does not depend on the weights; the real ones come from a hub."""


def profile_to_measure(name: str) -> Profile:
    """Return a profile whose towers need no download."""
    profile = PROFILES[name]
    return profile.model_copy(update=_RANDOM_CLIP) if name == "clip" else profile


def inputs_of(profile: Profile, tower: str, batch: int) -> dict[str, Array]:
    """Return a batch as the tower takes it: smooth noise for images, texts as long as the profile allows."""
    rng = np.random.default_rng(_SEED)
    if tower == IMAGE_FOLDER:
        side = profile.image_size
        coarse = rng.normal(size=(batch, 3, side // 8, side // 8)).astype(np.float32)
        return {"images_BCHW": coarse.repeat(8, axis=2).repeat(8, axis=3)}
    assert tower == TEXT_FOLDER
    ids_BT = rng.integers(_FIRST_WORD, 700, (batch, profile.max_tokens))
    return {"ids_BT": ids_BT, "mask_BT": np.ones_like(ids_BT)}
