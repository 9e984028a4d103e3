"""Where the doctor works: one folder that holds its world, the two trained bundles and everything made of them."""

import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from components.contract import read_contract
from components.home import Home
from components.ingest.rows import open_rows, write_rows
from components.policies import read_policies
from components.prove import step as proving
from components.prove.shared import Shared
from components.prove.step import ProveInputs
from components.snapshot.step import hashed_rows
from ledger.store import ContentStore
from moderation.bundle import Bundle
from moderation.golden import build_golden
from moderation.rescoring import Readings
from moderation.snapshot import SnapshotRow
from tidegate.doctor.making import SEED, Run, freeze, ingest, train
from tidegate.doctor.recorded import record_traffic
from tidegate.doctor.world import EARLY_DAY, LAST_DAY, DoctorWorld, Size

WORLD_SEED: Final = 7

_SHARED: Final = Shared(Readings())
"""Of all candidates that this process proves; none of them, nor their judgement, is in it."""

Retell = Callable[[SnapshotRow], SnapshotRow]


@dataclass(frozen=True)
class Workshop:
    """Every step is done once: what is there is taken as it is."""

    folder: Path
    contract: str
    """Text of the release contract."""

    policies: str
    """Text of the policy file, with the words of the doctor's world."""

    size: Size = Size()
    seed: int = WORLD_SEED
    """Of the world; everything else follows."""

    @property
    def home(self) -> Home:
        """Holds the world."""
        return Home(self.folder / "home")

    @property
    def late(self) -> Run:
        """The training whose bundle is good."""
        return Run(self.folder / "late")

    @property
    def early(self) -> Run:
        """The training on what was known before: its bundle is the champion."""
        return Run(self.folder / "early")

    def world(self) -> None:
        """Fill the ledger and draw the golden set."""
        with self.once("world") as is_new:
            if is_new:
                DoctorWorld(self.policy_ids, self.seed, self.size).fill(self.home)
                for run, day in ((self.late, LAST_DAY), (self.early, EARLY_DAY)):
                    run.folder.mkdir(parents=True, exist_ok=True)
                    ingest(self.home, run, day, self.policies)
                self.draw_golden(self.home)

    def champion(self) -> Bundle:
        """Return the bundle of the early training; it has decided the recorded traffic."""
        with self.once("champion") as is_new:
            if is_new:
                freeze(self.home, self.early, EARLY_DAY, self.policies)
                bundle = train(self.home, self.early, self.policies, self.contract)
                copy_ledger(self.home.ledger, self._undecided)
                record_traffic(self.home, bundle, read_policies(self.policies))
        return Bundle.open(self.early.release)

    def good(self) -> Bundle:
        """Return the bundle of the late training."""
        with self.once("good") as is_new:
            if is_new:
                freeze(self.home, self.late, LAST_DAY, self.policies)
                train(self.home, self.late, self.policies, self.contract)
        return Bundle.open(self.late.release)

    def retrained(self, name: str, retell: Retell, home: Home | None = None) -> Run:
        """Return a training on the early rows, each as `retell` tells it."""
        run, place = Run(self.folder / "trained" / name), home or self.home
        with self.once(f"trained-{name}") as is_new:
            if is_new:
                run.folder.mkdir(parents=True, exist_ok=True)
                write_rows(map(retell, open_rows(self.early.rows)), run.rows)
                freeze(place, run, EARLY_DAY, self.policies)
                train(self.home, run, self.policies, self.contract)
        return run

    def capped_yesterday(self, name: str, tier: str) -> Home:
        """Return a home like the world's whose last day was decided with a tier, and all above, closed."""
        with self.once(f"home-{name}") as is_new:
            home = self.variant(name, self.home.ledger.name)
            if is_new:
                copy_ledger(self._undecided, home.ledger)
                policies = read_policies(self.policies)
                caps = dict.fromkeys(policies.ids, tier)
                record_traffic(home, Bundle.open(self.early.release), policies, caps)
        return home

    @property
    def _undecided(self) -> Path:
        """The ledger before anything was decided."""
        return self.folder / "undecided.sqlite"

    def proof(
        self, release: Path, champion: Path | None, table: Path, home: Home, out: Path
    ) -> None:
        """Take the evidence about a bundle, by the pipeline's own step."""
        inputs = ProveInputs(
            str(release), "" if champion is None else str(champion), str(table), str(home.folder)
        )
        counts = proving.run(
            inputs, self.contract, self.policies, SEED, out=str(out), shared=_SHARED
        )
        (out / "counts.json").write_text(json.dumps(counts, indent=1, sort_keys=True))

    def variant(self, name: str, *without: str) -> Home:
        """Return a home like the world's in which some files or folders are missing."""
        folder = self.folder / "homes" / name
        folder.mkdir(parents=True, exist_ok=True)
        for path in self.home.folder.iterdir():
            link = folder / path.name
            is_open_journal = path.name.endswith(("-wal", "-shm"))
            if path.name not in without and not is_open_journal and not link.exists():
                link.symlink_to(path.resolve())
        return Home(folder)

    def draw_golden(self, home: Home, retell: Retell | None = None) -> None:
        """Draw the golden set of a home from all that the late training may see, each row as `retell` tells it."""
        read_blob = ContentStore(self.home.content).get

        def rows() -> Iterator[SnapshotRow]:
            found = open_rows(self.late.rows)
            return found if retell is None else map(retell, found)

        build_golden(
            home.golden,
            rows,
            read_contract(self.contract).golden,
            policy_ids=self.policy_ids,
            as_of=LAST_DAY,
            hashed=lambda drawn: hashed_rows(drawn, read_blob),
        )

    @property
    def policy_ids(self) -> tuple[str, ...]:
        """Of the policies."""
        return read_policies(self.policies).ids

    def candidate_folder(self, name: str) -> Path:
        """Return the folder of a candidate's evidence and judgement."""
        return self.folder / "candidates" / re.sub(r"[^a-z0-9]+", "-", name)

    def forget(self, name: str) -> None:
        """Throw away the proof of a candidate and what was judged of it, so that both are taken anew."""
        folder = self.candidate_folder(name)
        for stamp in (self.folder / "done").glob(f"judged-{folder.name}-*"):
            stamp.unlink()
        (self.folder / "done" / f"proof-{folder.name}").unlink(missing_ok=True)
        shutil.rmtree(folder / "evidence", ignore_errors=True)

    @contextmanager
    def once(self, name: str) -> Iterator[bool]:
        """Tell whether a step is still to be done; it counts as done when the block is left without an error."""
        stamp = self.folder / "done" / name
        yield not stamp.exists()
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()


def copy_ledger(source: Path, target: Path) -> None:
    """Copy a SQLite file with what its journal holds."""
    with closing(sqlite3.connect(source)) as read, closing(sqlite3.connect(target)) as write:
        read.backup(write)
