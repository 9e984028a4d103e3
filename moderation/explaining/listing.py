"""One listing's score under one policy, explained part by part."""

from threading import Lock

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from moderation.attacks.gradients import Standing, TorchBundle
from moderation.decision import SIGNALS, STATUS_CODES, SignalStatus
from moderation.ensemble import MAX_LOGIT
from moderation.errors import InvalidListing
from moderation.explaining.heat import heat_maps, shown
from moderation.explaining.objective import Objective
from moderation.explaining.places import Places
from moderation.explaining.sums import explain_behaviour, explain_ngrams
from moderation.explaining.words import STEPS, explain_words
from moderation.explanation import BehaviourPart, Explanation, Heat, MemberShare, TextPart
from moderation.image import decode
from moderation.scores import known_behaviour
from moderation.scoring import Scorer, ScoringItem

_OK = STATUS_CODES[SignalStatus.OK]


class Explainer:
    """Explains the scores of one loaded bundle; one listing at a time, others wait.

    Args:
        scorer: the bundle as it is served, verified.
        steps: forward and backward passes through the text tower.

    Raises:
        BundleRejected: if the bundle's safetensors do not fit its profile.
    """

    def __init__(self, scorer: Scorer, *, steps: int = STEPS) -> None:
        self._scorer, self._steps, self._lock = scorer, steps, Lock()
        self.model = TorchBundle(scorer.bundle)

    @property
    def bundle(self) -> str:
        """Digest of the bundle."""
        return self._scorer.digest

    @property
    def policies(self) -> tuple[str, ...]:
        """Policies that the bundle scores."""
        return self._scorer.policies

    def explain(self, item: ScoringItem, policy: str) -> Explanation:
        """Return why the bundle scores a listing as it does under one policy.

        Raises:
            InvalidListing: if the listing breaks a limit, or the bundle does not know the policy.
        """
        if policy not in self.policies:
            raise InvalidListing("policy", f"is not scored here; send one of {self.policies}")
        with self._lock:
            return self._explained(item, policy)

    def _explained(self, item: ScoringItem, policy: str) -> Explanation:
        column = self.policies.index(policy)
        scores = self._scorer.score([item])
        standing = Standing(scores.signals_NPM[0], scores.signal_status_NPM[0], (column,))
        base_P, weight_PM = self.model.weights(standing)
        members = tuple(
            _share(name, standing, column, m, float(weight_PM[column, m]))
            for m, name in enumerate(SIGNALS)
        )
        base = float(base_P[column])
        answered = {one.member for one in members if one.logit is not None}
        objective = Objective(self.model, standing, column)
        images = _decoded(item)
        heat, text = self._gradients(objective, item, images)
        return Explanation(
            bundle=self.bundle,
            policy=policy,
            log_odds=base + sum(one.share for one in members),
            base=base,
            members=members,
            heat=heat,
            text=text,
            ngram=self._ngrams(item, column) if "ngram" in answered else None,
            behaviour=self._behaviour(item, column) if "behaviour" in answered else None,
        )

    def _gradients(
        self, objective: Objective, item: ScoringItem, images: list[tuple[int, Image.Image]]
    ) -> tuple[tuple[Heat, ...], TextPart | None]:
        places = Places.of_tower(item.title, item.description)
        pictures = [image for _, image in images]
        text_1D, images_1KD = self._vectors(places.reading, pictures)
        heat: tuple[Heat, ...] = ()
        if pictures:
            maps = heat_maps(objective, pictures, text_1D)
            heat = tuple(
                shown(image, place, one) for (place, image), one in zip(images, maps, strict=True)
            )
        if text_1D is None:
            return heat, None
        return heat, explain_words(objective, places, images_1KD, steps=self._steps)

    def _vectors(
        self, reading: str, pictures: list[Image.Image]
    ) -> tuple[Tensor | None, Tensor | None]:
        ids = self.model.encode(reading)
        with torch.no_grad():
            text_1D = self.model.embed_tokens(ids) if ids else None
            if not pictures:
                return text_1D, None
            return text_1D, self.model.embed_pixels(self.model.pixels(pictures)).unsqueeze(0)

    def _ngrams(self, item: ScoringItem, column: int) -> TextPart:
        return explain_ngrams(self._scorer.ngram, item.title, item.description, column)

    def _behaviour(self, item: ScoringItem, column: int) -> BehaviourPart:
        return explain_behaviour(self._scorer.boosting, known_behaviour([item])[0], column)


def _share(name: str, standing: Standing, p: int, m: int, weight: float) -> MemberShare:
    if standing.status_PM[p, m] != _OK or not np.isfinite(standing.signals_PM[p, m]):
        return MemberShare(member=name, logit=None, weight=0.0, share=0.0)
    logit = float(standing.signals_PM[p, m])
    counted = min(max(logit, -MAX_LOGIT), MAX_LOGIT)  # as the ensemble cuts it
    return MemberShare(member=name, logit=logit, weight=weight, share=weight * counted)


def _decoded(item: ScoringItem) -> list[tuple[int, Image.Image]]:
    """Return the images that can be decoded with their places; the others are scored by nobody."""
    found = []
    for place, image in enumerate(item.images):
        try:
            found.append((place, decode(image) if isinstance(image, bytes) else image))
        except InvalidListing:
            continue
    return found
