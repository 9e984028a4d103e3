"""Heat maps of images by Grad-CAM: which places of the tower's last map of features raise the score.

K images of one listing, C channels, H x W cells, T tokens.
"""

import base64
import io
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from moderation.explaining.objective import Objective
from moderation.explanation import Heat
from moderation.image import central_square

_OVERLAY_SIDE: Final = 320
_MOST_COVER: Final = 0.6

Map = npt.NDArray[np.float64]


def heat_maps(
    objective: Objective, images: Sequence[Image.Image], text_1D: Tensor | None
) -> list[Map]:
    """Return a map of H x W cells for each image: not negative, unscaled, 0 where nothing there raises the score.

    Args:
        objective: what is explained.
        images: decoded images of the listing, at least one.
        text_1D: the embedding of its text; None without any.

    Source:
        Selvaraju et al. 2017, "Grad-CAM"; for transformers the patch tokens before the last block's attention, laid
        out as they lie in the image (J. Gildenblat's pytorch-grad-cam, `reshape_transform`).
    """
    pixels_KCHW = objective.model.pixels(images)
    features: list[Tensor] = []
    embedding_KD = _embedded(objective, pixels_KCHW, features)
    odds_1 = objective.odds(embedding_KD.unsqueeze(0), text_1D)
    (slope,) = torch.autograd.grad(odds_1.sum(), features)
    model = objective.model.image_tower.model
    features_KCHW, slope_KCHW = _as_map(model, features[0]), _as_map(model, slope)
    weight_KC11 = slope_KCHW.mean((2, 3), keepdim=True)
    heat_KHW = (weight_KC11 * features_KCHW).sum(1).relu()
    return [one.double().detach().numpy() for one in heat_KHW]


def shown(image: Image.Image, place: int, heat_HW: Map) -> Heat:
    """Return a map as a reviewer sees it: scaled to 1, and laid over what the tower reads of the image."""
    strength = float(heat_HW.max())
    grid_HW = heat_HW / strength if strength > 0 else np.zeros_like(heat_HW)
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return Heat(
        image=place,
        grid=tuple(tuple(round(float(cell), 4) for cell in row) for row in grid_HW),
        strength=strength,
        box=(left, top, left + side, top + side),
        overlay_png=base64.b64encode(_overlay(image, grid_HW)).decode(),
    )


def _embedded(objective: Objective, pixels_KCHW: Tensor, features: list[Tensor]) -> Tensor:
    """Return the embeddings, and put the tower's last map of features into `features`, ready for a gradient."""
    model: Any = objective.model.image_tower.model

    def watch(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        features.append(output.detach().requires_grad_(True))
        return features[-1]

    if _is_transformer(model):
        # Where the class token alone is pooled, patches count only through the last block's attention; where all
        # are pooled they reach the end past it. Each wants the other's layer not: hits on a planted patch fall to 0.
        last = model.blocks[-1]
        layer = last.norm1 if model.global_pool == "token" else last
        handle = layer.register_forward_hook(watch)
        try:
            return objective.model.embed_pixels(pixels_KCHW)
        finally:
            handle.remove()
    with torch.no_grad():
        normal_KCHW = objective.model.normalised(pixels_KCHW)
        found = model.forward_features(normal_KCHW)
    features.append(found.requires_grad_(True))
    embedding_KD: Tensor = model.forward_head(found)
    return embedding_KD


def _is_transformer(model: Any) -> bool:
    return hasattr(model, "patch_embed") and hasattr(model, "num_prefix_tokens")


def _as_map(model: Any, features: Tensor) -> Tensor:
    """Return features or slopes laid out over the image: _KCHW, also of a transformer's tokens."""
    if features.ndim == 4:
        return features
    patches_KTC = features[:, model.num_prefix_tokens :]
    height, width = model.patch_embed.grid_size
    return patches_KTC.transpose(1, 2).reshape(len(features), -1, height, width)


def _overlay(image: Image.Image, grid_HW: Map) -> bytes:
    square = central_square(image.convert("RGB"), _OVERLAY_SIDE)
    cells = Image.fromarray((grid_HW * 255).astype(np.uint8), "L")
    heat_HW = np.asarray(cells.resize(square.size, Image.Resampling.BILINEAR), np.float32) / 255
    colour_HWC = np.stack([np.ones_like(heat_HW), 1 - heat_HW, np.zeros_like(heat_HW)], -1) * 255
    cover_HW1 = (heat_HW * _MOST_COVER)[..., None]
    mixed = (1 - cover_HW1) * np.asarray(square, np.float32) + cover_HW1 * colour_HWC
    stream = io.BytesIO()
    Image.fromarray(mixed.astype(np.uint8), "RGB").save(stream, "PNG")
    return stream.getvalue()
