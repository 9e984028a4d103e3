"""Projected gradient descent on the pixels of a listing's images, within a largest change per pixel.

B images of one listing, S side of the square that the image tower reads.
"""

from collections.abc import Sequence
from typing import Final

import torch
from PIL import Image
from torch import Tensor

from moderation.attacks.gradients import ENOUGH, Standing, TorchBundle

_FIRST_STRIDE: Final = 0.25
"""Of the largest change; later strides shrink evenly to one level. Strides that stay long leave nothing settled."""


def perturb(
    model: TorchBundle,
    images: Sequence[Image.Image],
    text_1D: Tensor | None,
    standing: Standing,
    *,
    epsilon: float,
    steps: int,
) -> tuple[Image.Image, ...]:
    """Return the images as the tower sees them, changed so that the bundle finds less in them.

    Of every image the best of all steps is kept, its pixels rounded to 8 bits before they are judged.

    Args:
        model: gives the gradients.
        images: decoded, at least one.
        text_1D: embedding of the listing's text; None without any.
        standing: the listing's other signals, and the policies that are attacked.
        epsilon: largest change of a pixel, as a share of its range, at least one level; 1 allows any image.
        steps: gradient steps.

    Source:
        Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks".
    """
    start_BCHW = model.pixels(images)
    reach = float(max(1, int(min(epsilon, 1.0) * 255)))
    low_BCHW, high_BCHW = (start_BCHW - reach).clamp(min=0), (start_BCHW + reach).clamp(max=255)
    now_BCHW, best_BCHW = start_BCHW, start_BCHW
    least_B = torch.full((len(images),), torch.inf)
    for step in range(steps + 1):
        now_BCHW = now_BCHW.detach().requires_grad_(step < steps)
        # Rounding has no slope: it is judged with, and stepped over.
        shown_BCHW = now_BCHW + (now_BCHW.round() - now_BCHW).detach()
        loss_B = model.image_losses(shown_BCHW, text_1D, standing)
        is_better_B = loss_B.detach() < least_B
        least_B = torch.where(is_better_B, loss_B.detach(), least_B)
        best_BCHW = torch.where(is_better_B.view(-1, 1, 1, 1), shown_BCHW.detach(), best_BCHW)
        if bool((least_B < ENOUGH).all()):
            break
        if step < steps:
            (slope_BCHW,) = torch.autograd.grad(loss_B.sum(), now_BCHW)
            stride = max(_FIRST_STRIDE * reach * (1 - step / steps), 1.0)
            stepped_BCHW = now_BCHW.detach() - stride * slope_BCHW.sign()
            now_BCHW = stepped_BCHW.clamp(low_BCHW, high_BCHW)
    pixels_BHWC = best_BCHW.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return tuple(Image.fromarray(pixels_HWC, "RGB") for pixels_HWC in pixels_BHWC)
