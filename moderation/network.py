"""The heads above the towers: an image head, a text head and a fusion head for every policy of the policy file.

B listings, K images of one listing, D embedding width, H hidden width, P policies, T tokens of attention.
No parameter belongs to two heads, so that one modality can be fitted anew without touching the others.
"""

from pathlib import Path
from typing import Final, NamedTuple, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.export import Dim

from moderation.errors import BundleRejected
from moderation.export import write_onnx
from moderation.listing import MAX_IMAGES
from moderation.profiles import HeadsConfig

# Below every logit that training reaches, and far from where float32 loses the difference of two.
_NEVER: Final = -1e4
_LEAST_STD: Final = 1e-4


class HeadLogits(NamedTuple):
    """Logits of the three heads; those of an absent modality are 0 and mean nothing."""

    image_BP: Tensor
    text_BP: Tensor
    fusion_BP: Tensor
    worst_image_BP: Tensor
    """Which image gave `image_BP`."""


class ListingHeads(nn.Module):
    """Every head of one model, on embeddings that it standardises itself."""

    mean_image_D: Tensor
    std_image_D: Tensor
    mean_text_D: Tensor
    std_text_D: Tensor
    shift_3P: Tensor

    def __init__(
        self, image_dim: int, text_dim: int, num_policies: int, config: HeadsConfig
    ) -> None:
        super().__init__()
        self.dims = (image_dim, text_dim)
        self.register_buffer("mean_image_D", torch.zeros(image_dim))
        self.register_buffer("std_image_D", torch.ones(image_dim))
        self.register_buffer("mean_text_D", torch.zeros(text_dim))
        self.register_buffer("std_text_D", torch.ones(text_dim))
        # Log-odds that take each head from the sampled to the real base rate: image, text, fusion.
        self.register_buffer("shift_3P", torch.zeros(3, num_policies))
        self.dropout = ByteDropout(config.dropout)
        self.image_head = _head(image_dim, num_policies, config)
        self.text_head = _head(text_dim, num_policies, config)
        self.fusion_head = _FUSIONS[config.fusion](image_dim, text_dim, num_policies, config)

    def standardise(self, images_RD: Tensor, text_RD: Tensor) -> None:
        """Fit the standardisation to embeddings of real images and texts."""
        for name, rows_RD in (("image", images_RD), ("text", text_RD)):
            if len(rows_RD) > 1:
                getattr(self, f"mean_{name}_D").copy_(rows_RD.mean(0))
                getattr(self, f"std_{name}_D").copy_(rows_RD.std(0).clamp(min=_LEAST_STD))

    def forward(
        self, images_BKD: Tensor, image_mask_BK: Tensor, text_BD: Tensor, has_text_B: Tensor
    ) -> HeadLogits:
        """Return the logits of every head; of several images the worst decides.

        Args:
            images_BKD: embeddings, float32; anything finite where the mask is False.
            image_mask_BK: True where there is an image.
            text_BD: embeddings, float32; anything finite where there is no text.
            has_text_B: True where there is a text.

        Returns:
            logits at the base rate of the snapshot's weights.
        """
        images_BKD, text_BD = self.prepare(images_BKD, text_BD)
        image_BP, worst_image_BP = self.image_logits(images_BKD, image_mask_BK)
        text_BP = self.text_logits(text_BD)
        shown = (image_mask_BK, has_text_B)
        fusion_BP = self.fusion_logits(images_BKD, image_mask_BK, text_BD, shown)
        has_image_B1 = image_mask_BK.any(1, keepdim=True)
        zero_BP = torch.zeros_like(image_BP)
        return HeadLogits(
            torch.where(has_image_B1, image_BP + self.shift_3P[0], zero_BP),
            torch.where(has_text_B.unsqueeze(-1), text_BP + self.shift_3P[1], zero_BP),
            fusion_BP + self.shift_3P[2],
            worst_image_BP,
        )

    # Below, `images` are either images_BKD, or for training images_ID: the I images of the batch without empty slots.

    def prepare(self, images: Tensor, text_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Return standardised embeddings, in training with dropout: one draw serves all heads."""
        images = self.dropout((images - self.mean_image_D) / self.std_image_D)
        return images, self.dropout((text_BD - self.mean_text_D) / self.std_text_D)

    def image_logits(self, images: Tensor, slots_BK: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits_BP of the worst image, before prior correction, and which image it is."""
        logits_BKP = _on_images(self.image_head, images, slots_BK)
        never_BKP = torch.full_like(logits_BKP, _NEVER)
        worst_BP, index_BP = torch.where(slots_BK.unsqueeze(-1), logits_BKP, never_BKP).max(1)
        return worst_BP, index_BP

    def text_logits(self, text_BD: Tensor) -> Tensor:
        """Return logits_BP of the text, before prior correction."""
        return cast(Tensor, self.text_head(text_BD))

    def fusion_logits(
        self, images: Tensor, slots_BK: Tensor, text_BD: Tensor, shown: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Return logits_BP of image and text together, before prior correction.

        Args:
            images: prepared images.
            slots_BK: where there is an image.
            text_BD: prepared texts.
            shown: (shown_BK, shown_B), the images and texts that fusion may read.
        """
        return cast(Tensor, self.fusion_head(images, slots_BK, text_BD, shown))


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


def _head(dim: int, num_policies: int, config: HeadsConfig) -> nn.Module:
    if config.head == "linear":
        return _zeroed(nn.Linear(dim, num_policies))
    return nn.Sequential(
        nn.Linear(dim, config.hidden),
        nn.GELU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.hidden, num_policies),
    )


def _on_images(layers: nn.Module, images: Tensor, slots_BK: Tensor) -> Tensor:
    """Return `layers` of each image in its slot; images without slots come as images_ID."""
    answers = layers(images)
    if images.ndim > 2:
        return cast(Tensor, answers)
    answers_BKO = answers.new_zeros((*slots_BK.shape, answers.shape[-1]))
    answers_BKO[slots_BK] = answers
    return cast(Tensor, answers_BKO)


def _zeroed(layer: nn.Linear) -> nn.Linear:
    """Return a linear layer that starts at 0, where logistic regression starts."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class _Fusion(nn.Module):
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
        self.direct_image = _zeroed(nn.Linear(image_dim, num_policies))
        self.direct_text = _zeroed(nn.Linear(text_dim, num_policies))
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, images: Tensor, slots_BK: Tensor, text_BD: Tensor, shown: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Return logits_BP; an image or text that is not shown is not read."""
        mask_BK, has_text_B = shown
        mask_BK1, has_text_B1 = mask_BK.unsqueeze(-1), has_text_B.unsqueeze(-1)
        images_BKH = _on_images(self.project_image, images, slots_BK)
        images_BKH = torch.where(mask_BK1, images_BKH, self.no_image_H)
        text_BH = torch.where(has_text_B1, self.project_text(text_BD), self.no_text_H)
        joint_BKP = self.join(images_BKH, mask_BK, text_BH)
        from_images_BKP = _on_images(self.direct_image, images, slots_BK)
        from_text_B1P = (self.direct_text(text_BD) * has_text_B1).unsqueeze(1)
        direct_BKP = from_images_BKP * mask_BK1 + from_text_B1P
        # Without any image the first slot answers for the listing: it holds the vector of absence.
        first_BK = torch.arange(mask_BK.shape[1], device=mask_BK.device) == 0
        open_BK = mask_BK | (first_BK & ~mask_BK.any(1, keepdim=True))
        logits_BKP = joint_BKP + direct_BKP
        never_BKP = torch.full_like(logits_BKP, _NEVER)
        return torch.where(open_BK.unsqueeze(-1), logits_BKP, never_BKP).amax(1)

    def join(self, images_BKH: Tensor, mask_BK: Tensor, text_BH: Tensor) -> Tensor:
        """Return logits_BKP of each image with the text."""
        raise NotImplementedError


class ConcatFusion(_Fusion):
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


class GatedFusion(_Fusion):
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


class CrossAttentionFusion(_Fusion):
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
        never_BKT = torch.full_like(score_BKT, _NEVER)
        share_BKT = torch.where(open_BT.unsqueeze(1), score_BKT, never_BKT).softmax(-1)
        heard_BKH = self.norm(images_BKH + share_BKT @ self.value(tokens_BTH))
        return cast(Tensor, self.answer(self.dropout(nn.functional.gelu(heard_BKH))))


_FUSIONS: Final[dict[str, type[_Fusion]]] = {
    "concat": ConcatFusion,
    "gated": GatedFusion,
    "cross_attention": CrossAttentionFusion,
}


def export_heads(heads: ListingHeads, config: HeadsConfig, folder: Path) -> None:
    """Write `heads.onnx`, `heads.safetensors` and `heads.json` into `folder`; the same heads give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    image_dim, text_dim = heads.dims
    example = (
        torch.zeros(2, 3, image_dim),
        torch.ones(2, 3, dtype=torch.bool),
        torch.zeros(2, text_dim),
        torch.ones(2, dtype=torch.bool),
    )
    batch, images = Dim("batch", min=1), Dim("images", min=1, max=MAX_IMAGES)
    shapes = {
        "images_BKD": {0: batch, 1: images},
        "image_mask_BK": {0: batch, 1: images},
        "text_BD": {0: batch},
        "has_text_B": {0: batch},
    }
    write_onnx(heads, example, shapes, HeadLogits._fields, folder / "heads.onnx")
    save_file(heads.state_dict(), folder / "heads.safetensors")
    (folder / "heads.json").write_text(config.model_dump_json(indent=1))


def load_heads(folder: Path) -> ListingHeads:
    """Return the heads that `export_heads` wrote, for further training or comparison.

    Raises:
        BundleRejected: if the files do not fit together.
    """
    try:
        config = HeadsConfig.model_validate_json((folder / "heads.json").read_text())
        state = load_file(folder / "heads.safetensors")
        dims = len(state["mean_image_D"]), len(state["mean_text_D"])
        heads = ListingHeads(*dims, state["shift_3P"].shape[1], config)
        heads.load_state_dict(state)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise BundleRejected(f"{folder}: no readable heads: {error}") from error
    return heads.eval()
