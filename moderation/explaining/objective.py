"""What is explained: the ensemble's log-odds of one policy as a function of a listing's embeddings.

B ways to read one listing, K its images, D embedding width, M members.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from moderation.attacks.gradients import Standing, TorchBundle
from moderation.decision import SIGNALS

_FUSION, _IMAGE, _TEXT = (SIGNALS.index(name) for name in ("fusion", "image", "text"))


@dataclass(frozen=True)
class Objective:
    """The log-odds of one policy; members that read no embedding keep what they said of the listing.

    Logits are not cut at the ensemble's limit: there a certain score would have no gradient, and no reasons.
    """

    model: TorchBundle
    standing: Standing
    policy: int
    """Column of the policy."""

    def odds(self, images_BKD: Tensor | None, text_BD: Tensor | None) -> Tensor:
        """Return odds_B, differentiable; at least one of image and text is there, and stays there on every path."""
        shown = text_BD if images_BKD is None else images_BKD
        if shown is None:
            raise ValueError("a listing without image and text has no gradient to follow")
        batch, (image_dim, text_dim) = len(shown), self.model.heads.dims
        images = torch.zeros(batch, 1, image_dim) if images_BKD is None else images_BKD
        text = torch.zeros(batch, text_dim) if text_BD is None else text_BD
        logits = self.model.heads(
            images,
            torch.full(images.shape[:2], images_BKD is not None),
            text,
            torch.full((batch,), text_BD is not None),
        )
        base_P, weight_PM = self.model.weights(self.standing)
        fixed_M = self.standing.signals_PM[self.policy].copy()
        fixed_M[self.standing.status_PM[self.policy] != 0] = 0.0
        fixed_M[[_FUSION, _IMAGE, _TEXT]] = 0.0
        weight_M = weight_PM[self.policy]
        odds_B: Tensor = torch.full((batch,), float(base_P[self.policy] + weight_M @ fixed_M))
        odds_B += float(weight_M[_FUSION]) * logits.fusion_BP[:, self.policy]
        odds_B += float(weight_M[_IMAGE]) * logits.image_BP[:, self.policy]
        odds_B += float(weight_M[_TEXT]) * logits.text_BP[:, self.policy]
        return odds_B
