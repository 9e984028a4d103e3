"""The heads above the towers: an image head, a text head and a fusion head for every policy of the policy file.

B listings, K images of one listing, D embedding width, P policies. No parameter belongs to two heads, so
that one modality can be fitted anew without touching the others.
"""

from pathlib import Path
from typing import Final, NamedTuple, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.export import Dim

from moderation.errors import BundleRejected
from moderation.export import write_onnx
from moderation.fusion import FUSIONS, NEVER, ByteDropout, on_images, zeroed
from moderation.listing import MAX_IMAGES
from moderation.profiles import HeadsConfig

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
        self.fusion_head = FUSIONS[config.fusion](image_dim, text_dim, num_policies, config)

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
        logits_BKP = on_images(self.image_head, images, slots_BK)
        never_BKP = torch.full_like(logits_BKP, NEVER)
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


def _head(dim: int, num_policies: int, config: HeadsConfig) -> nn.Module:
    if config.head == "linear":
        return zeroed(nn.Linear(dim, num_policies))
    return nn.Sequential(
        nn.Linear(dim, config.hidden),
        nn.GELU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.hidden, num_policies),
    )


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
