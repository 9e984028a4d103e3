"""The model registry: every bundle with its lineage, metrics and report, and the names `champion` and `candidate`.

MLflow keeps the records; the bundle itself stays in its content-addressed folder and is referred to by digest, so a
registry that was edited cannot hand out other bytes. Which version becomes champion is for gates to say; until there
are any, the first one does, because there is nothing to compare it with, and every later one is a candidate.
"""

import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from moderation.bundle import Bundle, store
from moderation.clock import Clock, SystemClock
from moderation.errors import PermanentError, TemporaryError

MODEL: Final = "tidegate"
"""Name of the registered model and of the experiment."""

Alias = Literal["champion", "candidate"]

_DIGEST_TAG: Final = "bundle_digest"
_FOLDER_TAG: Final = "bundle_folder"
_NOT_ALLOWED: Final = re.compile(
    r"[^A-Za-z0-9_. /:-]"
)  # in the name of a metric or parameter of MLflow
_MAX_VALUE_CHARS: Final = (
    500  # a parameter's limit on PostgreSQL is 6000; a digest or a URL needs far less
)
_RETRY: Final = frozenset({"TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "INTERNAL_ERROR"})


@dataclass(frozen=True)
class ModelVersion:
    """One registered bundle."""

    version: int
    digest: str
    folder: Path
    run_id: str
    aliases: tuple[str, ...]


class Registry:
    """The registry behind one tracking URL."""

    def __init__(
        self, tracking_url: str, *, bundles: Path, artifacts: Path, clock: Clock | None = None
    ) -> None:
        """Connect; nothing is read yet.

        Args:
            tracking_url: `sqlite:///<path>` or the URL of an MLflow server.
            bundles: content-addressed folder of bundles.
            artifacts: where reports go when `tracking_url` is SQLite; a server has its own store.
            clock: gives the time of metrics.
        """
        if tracking_url.startswith("sqlite:///"):
            Path(tracking_url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        self._url, self._bundles, self._artifacts = tracking_url, bundles, artifacts
        self._clock = clock or SystemClock()
        self._opened: Any = None

    def register(
        self,
        bundle: Bundle,
        *,
        metrics: Mapping[str, float | None],
        lineage: Mapping[str, str | None],
        reports: Sequence[Path] = (),
    ) -> ModelVersion:
        """Return the version of `bundle`: champion if there is none yet, else candidate.

        Registering the same bundle again gives the version that it has.

        Args:
            bundle: copied into the content-addressed folder if it is not there.
            metrics: numbers of its evaluation; None is left out.
            lineage: what made it: `snapshot`, `code`, `git_commit`, `study`, ...; the parent bundle is added.
            reports: files to show beside it, such as the HTML report.

        Raises:
            PermanentError: if the lineage contradicts the bundle, or the registry refuses.
            TemporaryError: if the registry cannot be reached.
        """
        _check_lineage(bundle, lineage)
        kept = store(bundle, self._bundles)
        with self._client() as client:
            number = self._version_of(client, bundle.digest)
            if number is None:
                number = self._create(client, kept, metrics, lineage, reports)
            champion = self._version_at(client, "champion")
            if champion is None:
                client.set_registered_model_alias(MODEL, "champion", number)
            elif champion != number:
                client.set_registered_model_alias(MODEL, "candidate", number)
            return self._describe(client.get_model_version(MODEL, str(number)))

    def champion(self) -> ModelVersion | None:
        """Return the version that answers today; None before the first."""
        with self._client() as client:
            number = self._version_at(client, "champion")
            return (
                None
                if number is None
                else self._describe(client.get_model_version(MODEL, str(number)))
            )

    def resolve(self, alias: Alias) -> Bundle:
        """Return the bundle that `alias` names, verified against the digest that was registered.

        Raises:
            PermanentError: if no version has that alias, or its folder is gone.
            BundleRejected: if the folder does not hold that very bundle.
        """
        with self._client() as client:
            number = self._version_at(client, alias)
            if number is None:
                raise PermanentError(f"no version is {alias}; train and register one first")
            version = self._describe(client.get_model_version(MODEL, str(number)))
        if not version.folder.is_dir():
            raise PermanentError(
                f"{version.folder}: the bundle of {alias} is gone; restore it or train again"
            )
        return Bundle.open(version.folder, digest=version.digest)

    def set_alias(self, alias: Alias, version: int) -> None:
        """Give `alias` to `version`, and take it from the one that had it.

        Raises:
            PermanentError: if there is no such version.
        """
        with self._client() as client:
            client.set_registered_model_alias(MODEL, alias, str(version))

    def _create(
        self,
        client: Any,
        bundle: Bundle,
        metrics: Mapping[str, float | None],
        lineage: Mapping[str, str | None],
        reports: Sequence[Path],
    ) -> int:
        champion = self._version_at(client, "champion")
        parent = bundle.manifest.inputs.parent
        if parent is None and champion is not None:
            parent = client.get_model_version(MODEL, str(champion)).tags[_DIGEST_TAG]
        facts = {**lineage, "parent_bundle": parent, _DIGEST_TAG: bundle.digest}
        facts |= {f"version.{name}": version for name, version in bundle.versions.items()}
        facts |= {"profile": bundle.manifest.profile, "seed": str(bundle.manifest.inputs.seed)}
        run = client.create_run(self._experiment(client), run_name=f"bundle {bundle.digest[:12]}")
        run_id = run.info.run_id
        try:
            self._log(client, run_id, metrics, facts)
            for path in (bundle.folder / "manifest.json", *reports):
                client.log_artifact(run_id, str(path), artifact_path="bundle")
            tags = {key: value for key, value in facts.items() if value}
            tags[_FOLDER_TAG] = str(bundle.folder.resolve())
            source = f"{run.info.artifact_uri}/bundle"
            made = client.create_model_version(MODEL, source, run_id, tags=tags)
        except BaseException:
            client.set_terminated(run_id, status="FAILED")
            raise
        client.set_terminated(run_id)
        return int(made.version)

    def _log(
        self,
        client: Any,
        run_id: str,
        metrics: Mapping[str, float | None],
        facts: Mapping[str, str | None],
    ) -> None:
        from mlflow.entities import Metric, Param

        now_ms = int(self._clock.now().timestamp() * 1_000)
        numbers = [
            Metric(_NOT_ALLOWED.sub("_", name), float(value), now_ms, 0)
            for name, value in metrics.items()
            if value is not None
        ]
        params = [
            Param(_NOT_ALLOWED.sub("_", name), str(value or "none")[:_MAX_VALUE_CHARS])
            for name, value in facts.items()
        ]
        for begin in range(0, len(numbers), 1_000):  # MLflow takes at most 1000 metrics at once
            client.log_batch(run_id, metrics=numbers[begin : begin + 1_000])
        client.log_batch(run_id, params=params)

    def _experiment(self, client: Any) -> str:
        known = client.get_experiment_by_name(MODEL)
        if known is not None:
            return str(known.experiment_id)
        self._artifacts.mkdir(parents=True, exist_ok=True)
        own = self._artifacts.resolve().as_uri() if self._url.startswith("sqlite:") else None
        return str(client.create_experiment(MODEL, artifact_location=own))

    def _version_of(self, client: Any, digest: str) -> int | None:
        if not client.search_registered_models(f"name='{MODEL}'"):
            client.create_registered_model(MODEL)
            return None
        found = client.search_model_versions(f"name='{MODEL}' and tag.{_DIGEST_TAG}='{digest}'")
        return max((int(version.version) for version in found), default=None)

    def _version_at(self, client: Any, alias: str) -> int | None:
        models = client.search_registered_models(f"name='{MODEL}'")
        number = models[0].aliases.get(alias) if models else None
        return None if number is None else int(number)

    def _describe(self, version: Any) -> ModelVersion:
        digest = version.tags[_DIGEST_TAG]
        own = self._bundles / digest  # a home that was moved or mounted elsewhere still holds it
        folder = own if own.is_dir() else Path(version.tags[_FOLDER_TAG])
        return ModelVersion(
            int(version.version),
            digest,
            folder,
            str(version.run_id),
            tuple(sorted(version.aliases)),
        )

    @contextmanager
    def _client(self) -> Iterator[Any]:
        """Give MLflow's client, without its warnings, its chatter and its telemetry."""
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
                self._opened = self._opened or MlflowClient(self._url, self._url)
                yield self._opened
            except MlflowException as error:
                where = f"the registry at {self._url}"
                if error.error_code in _RETRY:
                    raise TemporaryError(f"{where} failed: {error.message}", delay_s=5) from error
                raise PermanentError(f"{where} refused: {error.message}") from error


def _check_lineage(bundle: Bundle, lineage: Mapping[str, str | None]) -> None:
    inputs = bundle.manifest.inputs
    for name in ("snapshot", "code"):
        said, true = lineage.get(name), getattr(inputs, name)
        if said is not None and said != true:
            raise PermanentError(
                f"lineage: {name} is {said}, but the bundle was made from {true}; register the run's own bundle"
            )
