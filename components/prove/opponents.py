"""Candidate and champion side by side: the same rows in the same run, answered in the candidate's columns.

N rows, P policies of the candidate.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from components.prove.frozen import FrozenRows
from moderation.embedding_cache import EmbeddingCache
from moderation.errors import BundleRejected
from moderation.gates.evidence import Answers, Floats, ScoredSet
from moderation.release import SliceRules
from moderation.rescoring import LazyItem, Progress, Readings, rescore
from moderation.scores import Scores
from moderation.scoring import Scorer


@dataclass
class Opponents:
    """Two loaded bundles behind one cache; the champion may be missing.

    `missing` collects what the champion could not answer: its answers are left out, and every comparison says so.
    """

    candidate: Scorer
    champion: Scorer | None
    cache: EmbeddingCache
    num_threads: int = 1
    missing: dict[str, str] = field(default_factory=dict)
    readings: Readings | None = None

    @property
    def policies(self) -> tuple[str, ...]:
        """Those of the candidate."""
        return self.candidate.policies

    def answer(
        self, rows: FrozenRows, rules: SliceRules, progress: Progress | None = None
    ) -> ScoredSet:
        """Return a set with the answers of both.

        Raises:
            BundleRejected: if the candidate refuses to answer.
        """
        candidate, champion = self.scores(rows.name, rows.items, progress)
        return rows.scored(
            self._answers(self.candidate, candidate, rows.items),
            None
            if champion is None or self.champion is None
            else self._answers(self.champion, champion, rows.items),
            rules,
        )

    def probabilities(
        self, part: str, items: Sequence[LazyItem], progress: Progress | None = None
    ) -> tuple[Floats, Floats | None]:
        """Return probability_NP of the candidate and of the champion."""
        candidate, champion = self.scores(part, items, progress)
        if champion is None or self.champion is None:
            return candidate.probability_NP, None
        return candidate.probability_NP, self._columns(self.champion, champion.probability_NP)

    def scores(
        self, part: str, items: Sequence[LazyItem], progress: Progress | None = None
    ) -> tuple[Scores, Scores | None]:
        """Return what both say; without the champion if it refuses, which `missing` then tells.

        Raises:
            BundleRejected: if the candidate refuses to answer.
        """
        if self.champion is not None:
            both = [self.candidate, self.champion]
            try:
                candidate, champion = self._rescored(items, both, progress)
                return candidate, champion
            except BundleRejected as error:
                refused = str(error)
        (candidate,) = self._rescored(items, [self.candidate], progress)
        if self.champion is not None:
            self.missing[f"champion on {part}"] = refused
        return candidate, None

    def _rescored(
        self, items: Sequence[LazyItem], scorers: Sequence[Scorer], progress: Progress | None
    ) -> list[Scores]:
        return rescore(
            items,
            scorers,
            self.cache,
            num_threads=self.num_threads,
            readings=self.readings,
            progress=progress,
        )

    def _answers(self, scorer: Scorer, scores: Scores, items: Sequence[LazyItem]) -> Answers:
        log_odds_NP = scorer.log_odds(scores.signals_NPM, scores.signal_status_NPM)
        return Answers(
            scorer.digest,
            self._columns(scorer, scores.probability_NP),
            self._columns(scorer, log_odds_NP),
            scorer.thresholds,
            tuple(policy for policy in self.policies if policy not in scorer.policies),
            scorer.lets_go(items),
        )

    def _columns(self, scorer: Scorer, values_NQ: Floats) -> Floats:
        """Return one column per policy of the candidate; NaN, no figure, where the other bundle lacks it."""
        values_NP = np.full((len(values_NQ), len(self.policies)), np.nan)
        for column, policy in enumerate(self.policies):
            if policy in scorer.policies:
                values_NP[:, column] = values_NQ[:, scorer.policies.index(policy)]
        return values_NP
