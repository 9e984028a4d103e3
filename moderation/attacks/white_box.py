"""White-box attacks: what an attacker who holds the bundle itself could submit, made with its own gradients.

They are the suite's own test: of unlimited strength they must bring recall to 0, or the attack is broken and its other
figures mean nothing. The bundle is attacked in torch and judged by the one scorer: what is returned are listings.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from moderation.attacks.gradients import Standing, TorchBundle, one_thread
from moderation.attacks.pixels import perturb
from moderation.attacks.registry import Subject
from moderation.attacks.token_swap import Losses, TokenSwapper, Words
from moderation.scores import Codes, Vectors, gather_embedded
from moderation.scoring import Scorer, ScoringItem
from moderation.text import model_text, ngram_texts

UNLIMITED: Final = math.inf
"""Severity at which every pixel and every word may be anything."""

_EPSILON: Final = 4 / 255
"""Largest change of a pixel at severity 1: a person sees the same photo."""

_WORD_SHARE: Final = 0.15
"""Words that are exchanged at severity 1, of all and at least one."""

_LEAST_INNOCENCE: Final = 1e-15


@dataclass(frozen=True)
class Target:
    """One violation to hide."""

    subject: Subject
    policies: tuple[int, ...]
    """Columns of the policies that it violates, at least one."""

    behaviour: Vectors | None = None
    behaviour_status: Codes | None = None

    def __post_init__(self) -> None:
        if not self.policies:
            raise ValueError("a target violates at least one policy; an innocent listing is none")

    def item(self, subject: Subject) -> ScoringItem:
        """Return what the scorer reads when `subject` takes the listing's place under the same seller."""
        return ScoringItem(
            subject.title,
            subject.description,
            subject.images,
            self.behaviour,
            self.behaviour_status,
        )


class WhiteBox:
    """Attacks on one bundle.

    Args:
        scorer: the bundle as it is served; judges every text that is tried.
        steps: gradient steps on pixels, and rounds of word swaps.

    Raises:
        BundleRejected: if the bundle's safetensors do not fit its profile.
    """

    def __init__(self, scorer: Scorer, *, steps: int = 20) -> None:
        self._scorer, self._steps = scorer, steps
        self._model = TorchBundle(scorer.bundle)
        self._swapper = TokenSwapper(self._model, scorer.ngram)

    def pgd(self, target: Target, severity: float) -> Subject:
        """Return the listing with perturbed images, each at the size that the tower sees; as it is without images.

        Raises:
            ValueError: if `severity` is not positive.
        """
        _check(severity)
        with one_thread():
            return self._perturbed(target, target.subject, severity)

    def token_swap(self, target: Target, severity: float) -> Subject:
        """Return the listing with words exchanged or dropped; as it is without a word that is read.

        Raises:
            ValueError: if `severity` is not positive.
        """
        _check(severity)
        with one_thread():
            return self._swapped(target, target.subject, severity)

    def joint(self, target: Target, severity: float) -> Subject:
        """Return the listing with its images perturbed, then its words exchanged; as it is with neither.

        Raises:
            ValueError: if `severity` is not positive.
        """
        _check(severity)
        with one_thread():
            perturbed = self._perturbed(target, target.subject, severity)
            return self._swapped(target, perturbed, severity)

    def _perturbed(self, target: Target, subject: Subject, severity: float) -> Subject:
        if not subject.images:
            return subject
        epsilon = 1.0 if math.isinf(severity) else _EPSILON * severity
        images = perturb(
            self._model,
            subject.images,
            self._text(subject),
            self._standing(target, subject),
            epsilon=epsilon,
            steps=self._steps,
        )
        return replace(subject, images=images)

    def _swapped(self, target: Target, subject: Subject, severity: float) -> Subject:
        text = Words.of(subject.title, subject.description)
        if not model_text(subject.title, subject.description).strip():
            return subject
        share = 1.0 if math.isinf(severity) else min(1.0, _WORD_SHARE * severity)
        found = self._swapper.swap(
            text,
            self._judge(target, subject),
            self._images(subject),
            self._standing(target, subject),
            max_swaps=max(1, int(share * len(text.words))),
            steps=self._steps,
        )
        if found == text:  # its spaces stay as they were
            return subject
        return replace(subject, title=found.title, description=found.description)

    def _standing(self, target: Target, subject: Subject) -> Standing:
        scores = self._scorer.score([target.item(subject)])
        return Standing(scores.signals_NPM[0], scores.signal_status_NPM[0], target.policies)

    def _judge(self, target: Target, subject: Subject) -> Losses:
        """Return what gives, by the scorer, the loss of texts beside the subject's images, which are embedded once."""
        scorer, columns = self._scorer, list(target.policies)
        images = [scorer.image_encoder.encode_one(image) for image in subject.images]

        def losses(texts: Sequence[Words]) -> npt.NDArray[np.float64]:
            tried = [replace(subject, title=t.title, description=t.description) for t in texts]
            shown = [model_text(one.title, one.description).strip() for one in tried]
            read = [one for one, text in zip(tried, shown, strict=True) if text]
            encode, dim = scorer.text_encoder.encode_one, scorer.image_encoder.dim
            vectors = [encode(text) if text else None for text in shown]
            scores = scorer.score_embedded(
                [target.item(one) for one in tried],
                [gather_embedded(images, dim, vector_D) for vector_D in vectors],
                scorer.ngram.logits([ngram_texts(one.title, one.description) for one in read]),
                is_grouped=True,
            )
            innocence_NP = np.maximum(1 - scores.probability_NP[:, columns], _LEAST_INNOCENCE)
            loss_N: npt.NDArray[np.float64] = -np.log(innocence_NP).sum(1)
            return loss_N

        return losses

    def _text(self, subject: Subject) -> Tensor | None:
        ids = self._model.encode(model_text(subject.title, subject.description))
        return self._model.embed_tokens(ids) if ids else None

    def _images(self, subject: Subject) -> Tensor | None:
        if not subject.images:
            return None
        with torch.no_grad():
            return self._model.embed_pixels(self._model.pixels(subject.images)).unsqueeze(0)


def _check(severity: float) -> None:
    if not severity > 0:
        raise ValueError(f"severity {severity} must be positive")
