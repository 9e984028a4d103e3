"""The audit of the world itself: it must not give its answers away, and must be hard for the right reasons."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from marketplace.audit_checks import (
    UNSEEN,
    AuditRow,
    check_erasure,
    check_features,
    check_needs_both,
    check_permuted,
    check_precision,
    check_skeletons,
    check_unseen,
    permute,
)
from marketplace.audit_models import member_scores, periods, precision_table, stack
from marketplace.audit_rows import AuditRows, Floats, collect
from marketplace.config import WorldConfig
from moderation.encoders import ImageEncoder, TextEncoder
from moderation.policy import PolicyFile


@dataclass(frozen=True)
class AuditReport:
    """Every check with its limit and value, and the precision table behind the last ones."""

    rows: tuple[AuditRow, ...]
    average_precision: Mapping[str, Sequence[float]]
    """Weighted, noise-free, in the test period; one value per policy."""

    unseen_precision: Mapping[str, float]
    """The ensemble's mean average precision on violations by unseen, and by seen, sellers, campaigns, ..."""

    num_rows: int

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return all(row.ok for row in self.rows)


def audit(
    config: WorldConfig,
    policies: PolicyFile,
    encoders: tuple[ImageEncoder, TextEncoder],
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> AuditReport:
    """Return what the audit of the world of `config` finds.

    Args:
        config: the world; `WorldConfig.audit()` is made for this.
        policies: the keyword baseline.
        encoders: the towers of profile `small`.
        progress: is told the number of submissions that were made so far.
    """
    rows = collect(config, policies, encoders, progress=progress)
    return audit_rows(rows, seed=config.seed)


def audit_rows(rows: AuditRows, *, seed: int) -> AuditReport:
    """Return what the audit finds in the rows of a world."""
    scores = member_scores(rows, rows.known_NP, seed)
    table = {
        "keywords": rows.keyword_NP,
        **scores,
        "words": stack(rows, scores, rows.known_NP, ("text", "ngram")),
        "ensemble": stack(rows, scores, rows.known_NP),
        "oracle": rows.oracle_NP,
    }
    test = periods(len(rows.truth_NP)).test
    precision = precision_table(rows, table, test)
    checks = [
        check_permuted(rows, permute(rows.known_NP, seed), seed=seed),
        *check_features(rows),
        *check_skeletons(rows),
        *check_unseen(rows),
        check_erasure(rows.log, rows.behaviour_NF),
        check_needs_both(rows),
        *check_precision(precision),
    ]
    unseen = unseen_precision(rows, table["ensemble"])
    return AuditReport(tuple(checks), precision, unseen, len(rows.truth_NP))


def unseen_precision(rows: AuditRows, ensemble_NP: Floats) -> dict[str, float]:
    """Return the ensemble's precision in the test period, its violations parted by what training had seen.

    Each part keeps every honest listing; a policy without a violation in it does not count.
    """
    split = periods(len(rows.truth_NP))
    found = {}
    for kind in UNSEEN:
        values = rows.slices[kind]
        seen = {values[i] for i in split.train.tolist()}
        for name, wanted in ((f"unseen {kind}", False), (f"seen {kind}", True)):
            kept = [
                i
                for i in split.test.tolist()
                if not rows.truth_NP[i].any() or (values[i] and (values[i] in seen) is wanted)
            ]
            parts = precision_table(rows, {name: ensemble_NP}, np.array(kept, np.int64))[name]
            measured = [part for part in parts if not np.isnan(part)]
            found[name] = float(np.mean(measured)) if measured else float("nan")
    return found
