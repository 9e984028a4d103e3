"""The one way to MLflow: quiet, without its telemetry, and with its errors translated."""

import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from moderation.clock import Clock
from moderation.errors import PermanentError, TemporaryError

EXPERIMENT: Final = "tidegate"
SHOWN: Final = "bundle"
"""Folder of a run's artefacts."""

_SQLITE: Final = "sqlite:///"
_RETRY: Final = frozenset({"TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "INTERNAL_ERROR"})
_NOT_ALLOWED: Final = re.compile(
    r"[^A-Za-z0-9_. /:-]"
)  # in the name of a metric or parameter of MLflow
_MAX_VALUE_CHARS: Final = (
    500  # a parameter's limit on PostgreSQL is 6000; a digest or a URL needs far less
)


@dataclass(frozen=True)
class Facts:
    """What is recorded in a run."""

    metrics: Mapping[str, float | None]
    """None is left out."""

    params: Mapping[str, str | None]
    paths: Sequence[Path]
    """Files and folders to show."""


class Tracking:
    """MLflow behind one tracking URL; nothing is read before the first use."""

    def __init__(self, url: str) -> None:
        """Remember where it is.

        Args:
            url: `sqlite:///<path>` or the URL of an MLflow server.
        """
        self.url = url
        self._file = Path(url.removeprefix(_SQLITE)) if url.startswith(_SQLITE) else None
        self._opened: Any = None

    @property
    def is_local(self) -> bool:
        """Whether it is a file on this machine."""
        return self._file is not None

    @property
    def is_new(self) -> bool:
        """Whether it is a file that is not there yet: its tables take seconds to create."""
        return self._file is not None and not self._file.exists()

    @contextmanager
    def client(self) -> Iterator[Any]:
        """Give MLflow's client, without its warnings, its chatter and its telemetry.

        Raises:
            TemporaryError: if the server cannot be reached.
            PermanentError: if it refuses.
        """
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
        # MLflow reports to its makers from its import on unless told not to before, and prints URLs of runs.
        for name in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"):
            os.environ[name] = "true"  # noqa: TID251
        with warnings.catch_warnings():
            # MLflow warns about how it uses SQLAlchemy, which is not ours to mend.
            warnings.simplefilter("ignore")
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient

            for name in ("mlflow", "alembic"):
                logging.getLogger(name).setLevel(logging.WARNING)
            try:
                self._opened = self._opened or MlflowClient(self.url, self.url)
                yield self._opened
            except MlflowException as error:
                where = f"the registry at {self.url}"
                if error.error_code in _RETRY:
                    raise TemporaryError(f"{where} failed: {error.message}", delay_s=5) from error
                raise PermanentError(f"{where} refused: {error.message}") from error

    @contextmanager
    def recorded(
        self, client: Any, name: str, facts: Facts, artifacts: Path, clock: Clock
    ) -> Iterator[Any]:
        """Give a run that holds `facts`; it is finished after the block, or failed if that raises.

        Args:
            client: as `client` gave it.
            name: of the run.
            facts: what to record.
            artifacts: folder of artefacts where this is a file on this machine.
            clock: gives the time of metrics.
        """
        run = client.create_run(self._experiment(client, artifacts), run_name=name)
        try:
            _log(client, run.info.run_id, facts, clock)
            show(client, run.info.run_id, facts.paths)
            yield run
        except BaseException:
            client.set_terminated(run.info.run_id, status="FAILED")
            raise
        client.set_terminated(run.info.run_id)

    def _experiment(self, client: Any, artifacts: Path) -> str:
        known = client.get_experiment_by_name(EXPERIMENT)
        if known is not None:
            return str(known.experiment_id)
        artifacts.mkdir(parents=True, exist_ok=True)
        own = artifacts.resolve().as_uri() if self.is_local else None
        return str(client.create_experiment(EXPERIMENT, artifact_location=own))


def show(client: Any, run_id: str, paths: Sequence[Path]) -> None:
    """Copy files and folders to where MLflow shows them in a run."""
    for path in paths:
        if path.is_dir():
            client.log_artifacts(run_id, str(path), artifact_path=f"{SHOWN}/{path.name}")
        else:
            client.log_artifact(run_id, str(path), artifact_path=SHOWN)


def _log(client: Any, run_id: str, facts: Facts, clock: Clock) -> None:
    from mlflow.entities import Metric, Param

    now_ms = int(clock.now().timestamp() * 1_000)
    numbers = [
        Metric(_NOT_ALLOWED.sub("_", name), float(value), now_ms, 0)
        for name, value in facts.metrics.items()
        if value is not None
    ]
    params = [
        Param(_NOT_ALLOWED.sub("_", name), str(value or "none")[:_MAX_VALUE_CHARS])
        for name, value in facts.params.items()
    ]
    for begin in range(0, len(numbers), 1_000):  # MLflow takes at most 1000 metrics at once
        client.log_batch(run_id, metrics=numbers[begin : begin + 1_000])
    client.log_batch(run_id, params=params)
