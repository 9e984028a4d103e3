"""Fusion of image and text, three ways, and what the heads are built from.

B listings, K images of one listing, D embedding width, H hidden width, P policies, T tokens of attention. `images`
are either images_BKD, or for training images_ID: the I images of the batch without empty slots.
"""

from abc import ABC, abstractmethod
from typing import Final, cast

import torch
from torch import Tensor, nn

from moderation.profiles import HeadsConfig

# Below every logit that training reaches, and far from where float32 loses the difference of two.
NEVER: Final = -1e4


class ByteDropout(nn.Module):
    """Dropout that draws one byte per number: on a CPU an eighth of the usual cost, most of a step's time."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._kept = round(256 * (1 - share))

    def forward(self, values: Tensor) -> Tensor:
        """Return `values` with about `share` of them 0 and the rest scaled up; unchanged outside training."""
        if not self.training or self._kept == 256:
            return values
        words = torch.empty(-(-values.numel() // 8), dtype=torch.int64, device=values.device)
        random_bytes = words.random_(-(2**63), None).view(torch.uint8)[: values.numel()]
        kept = random_bytes.view(values.shape) < self._kept
        return values * kept * (256 / self._kept)


def on_images(layers: nn.Module, images: Tensor, slots_BK: Tensor) -> Tensor:
    """Return `layers` of each image in its slot; images without slots come as images_ID."""
    answers = layers(images)
    if images.ndim > 2:
        return cast(Tensor, answers)
    answers_BKO = answers.new_zeros((*slots_BK.shape, answers.shape[-1]))
    answers_BKO[slots_BK] = answers
    return cast(Tensor, answers_BKO)


def zeroed(layer: nn.Linear) -> nn.Linear:
    """Return a linear layer that starts at 0, where logistic regression starts."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Fusion(nn.Module, ABC):
    """One logit per image from that image and the text; the worst image decides.

    A listing without images, or without text, is read through a learned vector that stands for the absence.
    """

    def __init__(
        self, image_dim: int, text_dim: int, num_policies: int, config: HeadsConfig
    ) -> None:
        super().__init__()
        hidden = config.hidden
        self.project_image = nn.Linear(image_dim, hidden)
        self.project_text = nn.Linear(text_dim, hidden)
        self.no_image_H = nn.Parameter(torch.zeros(hidden))
        self.no_text_H = nn.Parameter(torch.zeros(hidden))
        # The direct way keeps what either modality says alone; the joint way adds what only both say.
        self.direct_image = zeroed(nn.Linear(image_dim, num_policies))
        self.direct_text = zeroed(nn.Linear(text_dim, num_policies))
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, images: Tensor, slots_BK: Tensor, text_BD: Tensor, shown: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Return logits_BP; an image or text that is not shown is not read."""
        mask_BK, has_text_B = shown
        mask_BK1, has_text_B1 = mask_BK.unsqueeze(-1), has_text_B.unsqueeze(-1)
        images_BKH = on_images(self.project_image, images, slots_BK)
        images_BKH = torch.where(mask_BK1, images_BKH, self.no_image_H)
        text_BH = torch.where(has_text_B1, self.project_text(text_BD), self.no_text_H)
        joint_BKP = self.join(images_BKH, mask_BK, text_BH)
        from_images_BKP = on_images(self.direct_image, images, slots_BK)
        from_text_B1P = (self.direct_text(text_BD) * has_text_B1).unsqueeze(1)
        direct_BKP = from_images_BKP * mask_BK1 + from_text_B1P
        # Without any image the first slot answers for the listing: it holds the vector of absence.
        first_BK = torch.arange(mask_BK.shape[1], device=mask_BK.device) == 0
        open_BK = mask_BK | (first_BK & ~mask_BK.any(1, keepdim=True))
        logits_BKP = joint_BKP + direct_BKP
        never_BKP = torch.full_like(logits_BKP, NEVER)
        return torch.where(open_BK.unsqueeze(-1), logits_BKP, never_BKP).amax(1)

    @abstractmethod
    def join(self, images_BKH: Tensor, mask_BK: Tensor, text_BH: Tensor) -> Tensor:
        """Return logits_BKP of each image with the text."""


class ConcatFusion(Fusion):
    """A hidden layer over image, text and their product."""

    def __init__(
        self, image_dim: int, text_dim: int, num_policies: int, config: HeadsConfig
    ) -> None:
        super().__init__(image_dim, text_dim, num_policies, config)
        self.join_layers = nn.Sequential(
            nn.GELU(),
            nn.Linear(3 * config.hidden, config.hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, num_policies),
        )

    def join(self, images_BKH: Tensor, mask_BK: Tensor, text_BH: Tensor) -> Tensor:
        """Return logits_BKP of each image with the text."""
        text_BKH = text_BH.unsqueeze(1).expand_as(images_BKH)
        product_BKH = torch.tanh(images_BKH) * torch.tanh(text_BKH)
        joined = self.join_layers(torch.cat([images_BKH, text_BKH, product_BKH], -1))
        return cast(Tensor, joined)


class GatedFusion(Fusion):
    """A gate chooses, per hidden unit, between image and text.

    Source:
        Arevalo et al. 2017, "Gated Multimodal Units for Information Fusion".
    """

    def __init__(
        self, image_dim: int, text_dim: int, num_policies: int, config: HeadsConfig
    ) -> None:
        super().__init__(image_dim, text_dim, num_policies, config)
        self.gate = nn.Linear(2 * config.hidden, config.hidden)
        self.answer = nn.Linear(config.hidden, num_policies)

    def join(self, images_BKH: Tensor, mask_BK: Tensor, text_BH: Tensor) -> Tensor:
        """Return logits_BKP of each image with the text."""
        text_BKH = text_BH.unsqueeze(1).expand_as(images_BKH)
        gate_BKH = torch.sigmoid(self.gate(torch.cat([images_BKH, text_BKH], -1)))
        mixed_BKH = gate_BKH * torch.tanh(images_BKH) + (1 - gate_BKH) * torch.tanh(text_BKH)
        return cast(Tensor, self.answer(self.dropout(mixed_BKH)))


class CrossAttentionFusion(Fusion):
    """Each image asks the text and the other images of its listing."""

    def __init__(
        self, image_dim: int, text_dim: int, num_policies: int, config: HeadsConfig
    ) -> None:
        super().__init__(image_dim, text_dim, num_policies, config)
        self.query, self.key, self.value = (
            nn.Linear(config.hidden, config.hidden) for _ in range(3)
        )
        self.norm = nn.LayerNorm(config.hidden)
        self.answer = nn.Linear(config.hidden, num_policies)

    def join(self, images_BKH: Tensor, mask_BK: Tensor, text_BH: Tensor) -> Tensor:
        """Return logits_BKP of each image with the text."""
        tokens_BTH = torch.cat([text_BH.unsqueeze(1), images_BKH], 1)
        open_BT = torch.cat([torch.ones_like(mask_BK[:, :1]), mask_BK], 1)
        score_BKT = self.query(images_BKH) @ self.key(tokens_BTH).transpose(1, 2)
        score_BKT = score_BKT / images_BKH.shape[-1] ** 0.5
        never_BKT = torch.full_like(score_BKT, NEVER)
        share_BKT = torch.where(open_BT.unsqueeze(1), score_BKT, never_BKT).softmax(-1)
        heard_BKH = self.norm(images_BKH + share_BKT @ self.value(tokens_BTH))
        return cast(Tensor, self.answer(self.dropout(nn.functional.gelu(heard_BKH))))


FUSIONS: Final[dict[str, type[Fusion]]] = {
    "concat": ConcatFusion,
    "gated": GatedFusion,
    "cross_attention": CrossAttentionFusion,
}
