"""Bundles to serve: real towers of a profile, everything else as of the toy marketplace; heads untrained, as costly."""

from pathlib import Path

import torch

from moderation.bundle import Bundle, Description, build
from moderation.export import export_towers
from moderation.network import ListingHeads, export_heads
from moderation.profiles import PROFILES, Profile
from tests.tiny_bundle import tiny_run
from tests.toy import POLICIES


def build_bundle(profile: str, cache: Path) -> Bundle:
    """Return a bundle of `tiny`, `small` or `clip`; `clip` is full-size with random weights."""
    cache.mkdir(parents=True, exist_ok=True)
    tiny = tiny_run(cache)
    if profile == "tiny":
        return tiny.bundle
    chosen = _full_size() if profile == "clip" else PROFILES[profile]
    towers = export_towers(chosen, cache / "towers").folder
    torch.manual_seed(3)
    heads = ListingHeads(chosen.image_tower.dim, chosen.text_tower.dim, len(POLICIES), chosen.heads)
    export_heads(heads.eval(), chosen.heads, cache / f"heads-{profile}")
    parts = tiny.parts | {
        "image_tower": towers / "image_tower",
        "text_tower": towers / "text_tower",
        "heads": cache / f"heads-{profile}",
    }
    description = Description(policies=POLICIES, profile=profile, inputs=tiny.description.inputs)
    return build(cache / f"bundle-{profile}-{chosen.towers_digest[:12]}", parts, description)


def bundle_folder(profile: str, cache: str) -> str:
    """Return where the bundle lies."""
    return str(build_bundle(profile, Path(cache)).folder.absolute())


def _full_size() -> Profile:
    profile = PROFILES["clip"]
    image = profile.image_tower.model_copy(
        update={"source": "random", "name": "vit_base_patch32_clip_224"}
    )
    text = profile.text_tower.model_copy(update={"source": "random", "name": "distilbert"})
    return profile.model_copy(update={"image_tower": image, "text_tower": text})
