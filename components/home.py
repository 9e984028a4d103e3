"""The folder that a run keeps its state in: where each part of it lies."""

from dataclasses import dataclass
from pathlib import Path

from ledger.keys import FILE_NAME


@dataclass(frozen=True)
class Home:
    """Paths below one home folder; nothing is created by asking."""

    folder: Path

    @property
    def ledger(self) -> Path:
        """Events, SQLite."""
        return self.folder / "ledger.sqlite"

    @property
    def keys(self) -> Path:
        """Keys of sellers and what was erased, SQLite; without it nothing of a seller can be read."""
        return self.folder / FILE_NAME

    @property
    def receipts(self) -> Path:
        """What was done about each erasure, by the id of the key that was destroyed."""
        return self.folder / "receipts"

    @property
    def content(self) -> Path:
        """Bytes by digest."""
        return self.folder / "content"

    @property
    def towers(self) -> Path:
        """Exported towers by profile digest."""
        return self.folder / "towers"

    @property
    def embeddings(self) -> Path:
        """Embedding cache, SQLite."""
        return self.folder / "embeddings.sqlite"

    @property
    def study_url(self) -> str:
        """Optuna storage of a laptop."""
        return f"sqlite:///{self.folder / 'studies.sqlite'}"

    @property
    def tracking_url(self) -> str:
        """MLflow store of a laptop."""
        return f"sqlite:///{self.folder / 'mlflow.sqlite'}"

    @property
    def artifacts(self) -> Path:
        """MLflow artefacts."""
        return self.folder / "mlruns"

    @property
    def runs(self) -> Path:
        """Root of the local pipeline runs and their cache."""
        return self.folder / "runs"

    @property
    def bundles(self) -> Path:
        """Bundles by digest."""
        return self.folder / "bundles"

    @property
    def banks(self) -> Path:
        """Versions of the banks of known images, which one is active, and what is switched."""
        return self.folder / "banks"

    @property
    def golden(self) -> Path:
        """Versions of the golden set, who looked at them, and what was ever trained on."""
        return self.folder / "golden"

    @property
    def reports(self) -> Path:
        """Evaluations by bundle digest."""
        return self.folder / "reports"

    def pack(self, digest: str) -> Path:
        """Evidence pack of a bundle, beside its evaluation."""
        return self.reports / digest / "gates"

    @property
    def hard_examples(self) -> Path:
        """What bundles get wrong only under attack, one file each: never trained on, but their kinds train more."""
        return self.folder / "hard_examples"

    @property
    def routing(self) -> Path:
        """Routing table of the gateway."""
        return self.folder / "routing.json"

    @property
    def logs(self) -> Path:
        """Logs of the serving processes."""
        return self.folder / "logs"

    @property
    def tokens(self) -> Path:
        """The laptop's own caller of the gateway."""
        return self.folder / "gateway.tokens"

    @property
    def gateway(self) -> Path:
        """Where the gateway of this home listens while it runs."""
        return self.folder / "gateway.json"

    @property
    def world(self) -> Path:
        """Which simulated world the ledger holds."""
        return self.folder / "world.json"

    @property
    def unseen(self) -> Path:
        """Listings of that world that were kept aside."""
        return self.folder / "unseen.jsonl"

    @property
    def imported(self) -> Path:
        """What the last import missed or refused, row by row."""
        return self.folder / "import.jsonl"
