"""A bundle's own weights in torch, for attacks that follow its gradients; what comes of them is judged by the scorer.

B images of one listing, S side of the square that the image tower reads, T tokens, V vocabulary, D width of a token,
P policies, M members.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import softplus

from moderation.bundle import Bundle
from moderation.decision import SIGNALS
from moderation.ensemble import Ensemble
from moderation.image import central_square
from moderation.network import HeadLogits, load_heads
from moderation.profiles import profile_named
from moderation.reading import IMAGE_FOLDER, TEXT_FOLDER
from moderation.towers import load_image_tower, load_text_tower

_FUSION, _IMAGE, _TEXT = (SIGNALS.index(name) for name in ("fusion", "image", "text"))
_WEIGHTS: Final = "weights.safetensors"

ENOUGH: Final = 1e-4
"""Loss at which a listing counts as hidden: it passes for innocent with a chance of .9999."""


@dataclass(frozen=True)
class Standing:
    """What the served bundle says of one listing, and the policies under which an attack wants it to be missed."""

    signals_PM: npt.NDArray[np.float64]
    status_PM: npt.NDArray[np.int8]
    policies: tuple[int, ...]


@dataclass(frozen=True)
class Gradients:
    """How the loss changes with each token of a text, to first order."""

    ids_T: tuple[int, ...]
    slope_TD: Tensor


class TorchBundle:
    """Towers, heads and ensemble of a bundle, differentiable from pixels and from token vectors.

    Threads may share it.

    Raises:
        BundleRejected: if the safetensors are not of the architecture that the manifest's profile names.
        SettingsError: if the profile is unknown to this release.
    """

    def __init__(self, bundle: Bundle) -> None:
        folder, profile = bundle.folder, profile_named(bundle.manifest.profile)
        image_facts, text_facts = (
            json.loads((folder / name / "tower.json").read_text())
            for name in (IMAGE_FOLDER, TEXT_FOLDER)
        )
        self.image_tower = load_image_tower(profile.image_tower, folder / IMAGE_FOLDER / _WEIGHTS)
        self.text_tower = load_text_tower(profile.text_tower, folder / TEXT_FOLDER / _WEIGHTS)
        self.heads = load_heads(folder / "heads")
        for module in (self.image_tower, self.text_tower, self.heads):
            module.requires_grad_(False)
        self.tokenizer = Tokenizer.from_file(str(folder / TEXT_FOLDER / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.max_tokens: int = text_facts["max_tokens"]
        self._frame = self.tokenizer.encode("").ids
        self.image_size: int = image_facts["image_size"]
        self._mean, self._std = (
            torch.tensor(image_facts[name], dtype=torch.float32).view(1, 3, 1, 1)
            for name in ("mean", "std")
        )
        self._ensemble = Ensemble.load(folder / "ensemble.json")

    @property
    def token_table_VD(self) -> Tensor:
        """The vector of every token of the vocabulary."""
        model: Any = self.text_tower.model
        table: Tensor = model.get_input_embeddings().weight
        return table

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """Return what the tower sees of decoded images: pixels_BCHW from 0 to 255, whole numbers as float32."""
        squares = [np.asarray(central_square(image, self.image_size)) for image in images]
        return torch.from_numpy(np.stack(squares).astype(np.float32)).permute(0, 3, 1, 2)

    def normalised(self, pixels_BCHW: Tensor) -> Tensor:
        """Return pixels from 0 to 255 as the tower's input."""
        return (pixels_BCHW / 255 - self._mean) / self._std

    def embed_pixels(self, pixels_BCHW: Tensor) -> Tensor:
        """Return images_BD of pixels from 0 to 255."""
        embedding_BD: Tensor = self.image_tower(self.normalised(pixels_BCHW))
        return embedding_BD

    def embed_tokens(self, ids: Sequence[int]) -> Tensor:
        """Return text_1D of a token sequence, special tokens included."""
        ids_1T = torch.tensor([list(ids)])
        embedding_1D: Tensor = self.text_tower(ids_1T, torch.ones_like(ids_1T))
        return embedding_1D

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text as the tower reads them, special tokens included; none for an empty text."""
        if not text.strip():
            return ()
        return self.framed(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def framed(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Return tokens, cut to what the tower reads, between its first and its last special one."""
        first, last = self._frame
        return (first, *ids[: self.max_tokens - 2], last)

    def image_losses(
        self, pixels_BCHW: Tensor, text_1D: Tensor | None, standing: Standing
    ) -> Tensor:
        """Return loss_B, each image read as if it were the listing's only one.

        The worst image decides, so all of them must fall: their losses are lowered side by side.
        """
        images_B1D = self.embed_pixels(pixels_BCHW).unsqueeze(1)
        return self._losses(self.logits(images_B1D, text_1D), standing, has_image=True)

    def token_gradients(
        self, ids: Sequence[int], images_1KD: Tensor | None, standing: Standing
    ) -> Gradients:
        """Return the slope of the loss in each token's vector.

        Args:
            ids: tokens with the special ones, at least one.
            images_1KD: embeddings of the listing's images; None without any.
            standing: the listing's other signals.
        """
        with _watched(self.text_tower.model) as vectors:
            text_1D = self.embed_tokens(ids)
        logits = self.logits(images_1KD, text_1D)
        loss = self._losses(logits, standing, has_image=images_1KD is not None).sum()
        (slope_1TD,) = torch.autograd.grad(loss, vectors)
        return Gradients(tuple(ids), slope_1TD[0])

    def weights(
        self, standing: Standing
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return base_P and weight_PM of the ensemble's log-odds: it is linear in its members while none is cut off.

        A member that failed is stood in for by the others, so its share is in their weights.
        """
        num_members = len(SIGNALS)
        shape = (num_members + 1, *standing.signals_PM.shape)
        probes_NPM = np.zeros(shape)
        for member in range(num_members):
            probes_NPM[member + 1, :, member] = 1.0
        status_NPM = np.broadcast_to(standing.status_PM, shape)
        odds_NP = self._ensemble.log_odds(probes_NPM, status_NPM)
        return odds_NP[0], (odds_NP[1:] - odds_NP[0]).T

    def logits(self, images_BKD: Tensor | None, text_1D: Tensor | None) -> HeadLogits:
        """Return every head's logits of listings that share a text; None is an absent modality."""
        image_dim, text_dim = self.heads.dims
        batch = 1 if images_BKD is None else len(images_BKD)
        images = torch.zeros(batch, 1, image_dim) if images_BKD is None else images_BKD
        text = torch.zeros(1, text_dim) if text_1D is None else text_1D
        mask_BK = torch.full(images.shape[:2], images_BKD is not None)
        has_text_B = torch.full((batch,), text_1D is not None)
        logits: HeadLogits = self.heads(images, mask_BK, text.expand(batch, -1), has_text_B)
        return logits

    def _losses(self, logits: HeadLogits, standing: Standing, *, has_image: bool) -> Tensor:
        """Return loss_B: minus the log of the chance of innocence, summed over the attacked policies."""
        base_P, weight_PM = self.weights(standing)
        fixed_PM = standing.signals_PM.copy()
        fixed_PM[:, [_FUSION, _TEXT] + [_IMAGE] * has_image] = 0.0
        base = torch.from_numpy(base_P + (weight_PM * fixed_PM).sum(1)).float()
        weight_MP = torch.from_numpy(weight_PM.T.copy()).float()
        odds_BP = base + weight_MP[_FUSION] * logits.fusion_BP + weight_MP[_TEXT] * logits.text_BP
        if has_image:
            odds_BP = odds_BP + weight_MP[_IMAGE] * logits.image_BP
        return softplus(odds_BP[:, list(standing.policies)]).sum(1)


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[Tensor]]:
    """Give a list that receives the vectors of the tokens that `model` reads, ready for a gradient."""
    seen: list[Tensor] = []
    embedding: nn.Module = model.get_input_embeddings()  # type: ignore[operator]  # of transformers, untyped
    own = get_ident()

    def watch(module: nn.Module, inputs: object, output: Tensor) -> None:
        if get_ident() == own:  # other threads read other texts
            seen.append(output.requires_grad_(True))

    handle = embedding.register_forward_hook(watch)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, so that an attack does not depend on the machine's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
