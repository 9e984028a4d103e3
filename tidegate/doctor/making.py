"""Trains the doctor's bundles by the pipeline's own steps, the tiny profile's towers below them."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from components.bundle import step as bundling
from components.calibrate import step as calibrating
from components.embed import step as embedding
from components.home import Home
from components.ingest import step as ingesting
from components.snapshot import step as freezing
from components.train import step as training
from moderation.bundle import Bundle
from moderation.profiles import HeadsConfig

PROFILE: Final = "tiny"
SEED: Final = 17
HEADS: Final = HeadsConfig(
    hidden=32, dropout=0.1, epochs=16, learning_rate=1e-2, weight_decay=0.05, view_mix=0.2
)
"""As a study would choose: random towers need a head that works harder."""


@dataclass(frozen=True)
class Run:
    """What one training leaves behind, by the pipeline's own names."""

    folder: Path

    @property
    def rows(self) -> Path:
        """Rows of the ledger, Parquet."""
        return self.folder / "rows.parquet"

    @property
    def table(self) -> Path:
        """The snapshot."""
        return self.folder / "table"

    @property
    def embeddings(self) -> Path:
        """Of the snapshot."""
        return self.folder / "embeddings"

    @property
    def towers(self) -> Path:
        """Exported."""
        return self.folder / "towers"

    @property
    def config(self) -> Path:
        """Of the heads."""
        return self.folder / "config.json"

    @property
    def model(self) -> Path:
        """Members and signals."""
        return self.folder / "model"

    @property
    def calibration(self) -> Path:
        """Ensemble, thresholds."""
        return self.folder / "calibration"

    @property
    def release(self) -> Path:
        """The bundle."""
        return self.folder / "release"


def ingest(home: Home, run: Run, day: datetime, policies: str) -> None:
    """Write the rows that a training of `day` sees."""
    ingesting.run(str(home.folder), f"{day:%Y-%m-%d}", policies, out=str(run.rows))


def freeze(home: Home, run: Run, day: datetime, policies: str) -> None:
    """Write the snapshot of the rows, and its embeddings."""
    date = f"{day:%Y-%m-%d}"
    freezing.run(str(run.rows), str(home.folder), date, policies, 30, out=str(run.table))


def train(home: Home, run: Run, policies: str, contract: str) -> Bundle:
    """Return the bundle trained on the snapshot of a run."""
    place, table = str(home.folder), str(run.table)
    embeddings, model = str(run.embeddings), str(run.model)
    embedding.run(table, place, PROFILE, SEED, out=embeddings, towers=str(run.towers))
    run.config.write_text(HEADS.model_dump_json())
    training.run(training.TrainInputs(table, embeddings, str(run.config)), SEED, out=model)
    calibrating.run(
        calibrating.CalibrateInputs(table, embeddings, model),
        policies,
        contract,
        SEED,
        out=str(run.calibration),
        tiers=str(run.folder / "tiers.md"),
    )
    inputs = {"code": "doctor", "config": "doctor", "seed": SEED, "prior_study": ""}
    parts = bundling.BundleParts(table, str(run.towers), model, str(run.calibration))
    bundling.run(parts, inputs, PROFILE, out=str(run.release))
    return Bundle.open(run.release)
