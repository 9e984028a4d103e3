"""Training of one model: every member fitted, every row scored by members that did not see it.

N rows of the snapshot, R chosen rows, P policies. In `time` mode a train row is scored by members fitted on earlier
blocks only; rows of the first block have no earlier one and train alone. In `declared` mode it is scored by members
fitted on the other folds.
"""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from moderation.boosting import BoostingModel, fit_boosting
from moderation.embedded_rows import EmbeddedRows
from moderation.errors import InvalidSnapshot
from moderation.fitting import fit_heads, score_heads
from moderation.network import ListingHeads, export_heads
from moderation.ngram import NgramModel, fit_ngram
from moderation.profiles import HeadsConfig
from moderation.sampling import Teaching
from moderation.signals import SignalTable, as_words
from moderation.snapshot import Snapshot
from moderation.text import NgramText, ngram_texts

_TEXT_ROWS: Final = 1_024
# A slice of more values is an identifier, not a slice; reports could not show it.
_MAX_SLICE_VALUES: Final = 40
_LOGITS: Final = (
    "image_NP",
    "text_NP",
    "ngram_NP",
    "behaviour_NP",
    "fusion_both_NP",
    "fusion_image_NP",
    "fusion_text_NP",
)

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Members:
    """Everything below the ensemble, fitted on the same rows."""

    heads: ListingHeads
    ngram: NgramModel
    behaviour: BoostingModel


@dataclass(frozen=True)
class Training:
    """What every fit of one training run reads."""

    snapshot: Snapshot
    rows: EmbeddedRows
    config: HeadsConfig
    seed: int
    taught: Teaching
    group_N: npt.NDArray[np.int64]
    behaviour_NF: npt.NDArray[np.float32]

    @classmethod
    def of(
        cls, snapshot: Snapshot, rows: EmbeddedRows, config: HeadsConfig, seed: int
    ) -> "Training":
        """Return a training run of `snapshot`.

        Raises:
            InvalidSnapshot: if the embeddings are of another snapshot.
        """
        if rows.info["snapshot"] != snapshot.digest:
            raise InvalidSnapshot(
                f"{rows.folder} holds embeddings of another snapshot; embed this one"
            )
        return cls(
            snapshot,
            rows,
            config,
            seed,
            Teaching.of(snapshot),
            snapshot.group,
            snapshot.behaviour_NF(),
        )

    def fit(self, index_R: Indices) -> Members:
        """Return the members fitted on the rows `index_R`.

        Emphasis is on words and photos, which attacks change; the trees read behaviour, which none does, and have none.
        """
        truth_NP, weight_N = self.taught.truth_NP, self.taught.weight_N
        heads = fit_heads(self.rows, index_R, self.taught, self.config, self.seed)
        texts_R = index_R[self.rows.has_text_N[index_R]]
        ngram = fit_ngram(
            self._texts(texts_R),
            truth_NP[texts_R],
            weight_N[texts_R],
            emphasis_N=None if self.taught.emphasis_N is None else self.taught.emphasis_N[texts_R],
            seed=self.seed,
        )
        behaviour = fit_boosting(
            self.behaviour_NF[index_R],
            truth_NP[index_R],
            weight_N[index_R],
            self.group_N[index_R],
            seed=self.seed,
            num_threads=1,
        )
        return Members(heads, ngram, behaviour)

    def score(self, members: Members, index_R: Indices, logits: dict[str, Floats]) -> None:
        """Write what `members` say of the rows `index_R` into the columns of `logits`."""
        heads = score_heads(members.heads, self.rows, index_R)
        for name, logits_RP in vars(heads).items():
            logits[name.replace("_RP", "_NP")][index_R] = logits_RP
        logits["behaviour_NP"][index_R] = members.behaviour.logits(self.behaviour_NF[index_R])
        texts_R = index_R[self.rows.has_text_N[index_R]]
        begin, chunk = 0, []
        for text in self._texts(texts_R):
            chunk.append(text)
            if len(chunk) == _TEXT_ROWS or begin + len(chunk) == len(texts_R):
                logits["ngram_NP"][texts_R[begin : begin + len(chunk)]] = members.ngram.logits(
                    chunk
                )
                begin, chunk = begin + len(chunk), []

    def _texts(self, index_R: Indices) -> Iterator[NgramText]:
        """Yield the n-gram model's texts of the rows `index_R`, which ascend."""
        wanted = iter([*index_R.tolist(), -1])
        row, following = 0, next(wanted)
        for batch in self.snapshot.batches(["title", "description"], _TEXT_ROWS):
            last = row + batch.num_rows
            if following < row or following >= last:
                row = last
                continue
            titles, descriptions = batch["title"].to_pylist(), batch["description"].to_pylist()
            while row <= following < last:
                yield ngram_texts(titles[following - row], descriptions[following - row])
                following = next(wanted)
            row = last


def train(
    snapshot: Snapshot, rows: EmbeddedRows, out_folder: Path, config: HeadsConfig, seed: int
) -> SignalTable:
    """Return every row's signals; the members and `signals.npz` are written to `out_folder`.

    Args:
        snapshot: gives truth, weights, roles and folds; its train rows fit the members.
        rows: embeddings of the snapshot.
        out_folder: `heads/`, `ngram/`, `behaviour/` and `signals.npz`; replaced as a whole once all are there.
        config: of the heads.
        seed: of everything drawn; the same inputs and seed give the same bytes.

    Raises:
        InvalidSnapshot: if no train row has a known truth, or the embeddings are of another snapshot.
    """
    training = Training.of(snapshot, rows, config, seed)
    logits, fold_N = out_of_fold_signals(training)
    role_N = snapshot.role
    members = training.fit(np.flatnonzero(role_N == "train"))
    training.score(members, np.flatnonzero(role_N != "train"), logits)
    table = _table(training, logits, fold_N, role_N)
    out_folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".members-", dir=out_folder.parent))
    try:
        export_heads(members.heads, config, staging / "heads")
        members.ngram.save(staging / "ngram")
        members.behaviour.save(staging / "behaviour", snapshot.policy_ids)
        table.save(staging / "signals.npz")
        if out_folder.exists():
            shutil.rmtree(out_folder)
        staging.rename(out_folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return table


def out_of_fold_signals(
    training: Training,
) -> tuple[dict[str, Floats], npt.NDArray[np.int64]]:
    """Return the logits of train rows from members that did not see them, and fold_N, -1 where there are none.

    Returns:
        logits by column of the table of signals, each of shape N x P and NaN where nothing was scored.
    """
    shape = training.taught.truth_NP.shape
    logits = {name: np.full(shape, np.nan) for name in _LOGITS}
    fold_N = np.full(shape[0], -1, np.int64)
    for fold, fit_R, score_R in plan_folds(training.snapshot):
        if fold == training.rows.info.get("tuned_fold"):
            continue  # the towers have seen these rows: no member can judge them as unseen
        training.score(training.fit(fit_R), score_R, logits)
        fold_N[score_R] = fold
    return logits, fold_N


def plan_folds(snapshot: Snapshot) -> Iterator[tuple[int, Indices, Indices]]:
    """Yield (fold, rows to fit on, rows to score) of each out-of-fold step."""
    role_N, fold_N = snapshot.role, snapshot.fold.astype(np.int64)
    is_train_N = role_N == "train"
    is_forward = snapshot.mode == "time"
    # Rows are in time order: one without a fold of its own belongs to the block that it lies in.
    block_N = np.maximum.accumulate(np.where(is_train_N, fold_N, -1)) if is_forward else fold_N
    for fold in np.unique(fold_N[is_train_N & (fold_N >= 0)]):
        is_fit_N = block_N < fold if is_forward else block_N != fold
        fit_R = np.flatnonzero(is_train_N & is_fit_N)
        score_R = np.flatnonzero(is_train_N & (fold_N == fold))
        if len(fit_R):
            yield int(fold), fit_R, score_R


def _table(
    training: Training,
    logits: dict[str, Floats],
    fold_N: npt.NDArray[np.int64],
    role_N: npt.NDArray[np.str_],
) -> SignalTable:
    snapshot = training.snapshot
    return SignalTable(
        policies=snapshot.policy_ids,
        submission_id=as_words(snapshot.column("submission_id").tolist()),
        role=role_N,
        fold=fold_N,
        group=training.group_N,
        weight=training.taught.weight_N,
        truth_NP=training.taught.truth_NP,
        num_images=training.rows.num_images_N,
        slices=_slices(snapshot),
        **logits,
    )


def _slices(snapshot: Snapshot) -> dict[str, npt.NDArray[np.str_]]:
    """Return the attributes and columns that cut the rows into a few named subsets."""
    attributes = snapshot.attributes()
    columns = {
        name: [row.get(name, "") for row in attributes]
        for name in sorted({name for row in attributes for name in row})
    }
    for name in ("language", "region"):
        columns[name] = [value or "" for value in snapshot.column(name).tolist()]
    return {
        name: as_words(values)
        for name, values in columns.items()
        if 1 < len(set(values)) <= _MAX_SLICE_VALUES
    }
