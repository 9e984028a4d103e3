"""Hands the training pipeline to a Kubeflow Pipelines server: once now, or every day."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Protocol

import kfp
import urllib3
from kfp_server_api.exceptions import ApiException  # type: ignore[import-untyped]  # no types

from moderation.clock import Clock
from moderation.errors import PermanentError, TemporaryError
from pipelines.compile import compile_training
from pipelines.parameters import Parameters
from pipelines.resources import CLUSTER_HOME

PIPELINE: Final = "tidegate-training"
EXPERIMENT: Final = "tidegate"

# Filled in by the server's scheduler for every run, in Go's layout of a date; so each day has cache keys of its own.
_SCHEDULED_DATE: Final = "[[ScheduledTime.2006-01-02]]"
_SCHEDULED_VERSION: Final = "scheduled-[[ScheduledTime]]"

DAILY: Final = "0 0 2 * * *"
"""Second, minute, hour, day, month, weekday: two hours after the cut-off, when late truth has arrived."""

_CRON_FIELDS: Final = 6


@dataclass(frozen=True)
class Submitted:
    """What the server made of it."""

    pipeline_id: str
    version_id: str
    run_id: str | None
    recurring_run_id: str | None


class _Versioned(Protocol):
    pipeline_version_id: str
    display_name: str


def submit_once(host: str, parameters: Parameters, clock: Clock) -> Submitted:
    """Upload the pipeline and start one run of it.

    Nobody here sees the cluster's ledger, so the data version is the time of submission: caches of earlier
    submissions are never taken for this one.

    Raises:
        TemporaryError: if the server cannot be reached.
        PermanentError: if it refuses.
    """
    client = _connect(host)
    version_id, pipeline_id = _upload(client, parameters.code_digest)
    arguments = _for_cluster(parameters, f"submitted-{clock.now():%Y%m%d%H%M%S}")
    with _Translated(host):
        experiment = client.create_experiment(EXPERIMENT)
        run = client.run_pipeline(
            experiment_id=experiment.experiment_id,
            job_name=f"training-{parameters.logical_date}",
            params=arguments,
            pipeline_id=pipeline_id,
            version_id=version_id,
        )
    return Submitted(pipeline_id, version_id, run.run_id, None)


def submit_daily(host: str, parameters: Parameters, *, cron: str = DAILY) -> Submitted:
    """Upload the pipeline and run it on a schedule, in place of any earlier schedule of ours.

    A missed day is not caught up (the next run sees its data), and two runs never overlap.

    Raises:
        TemporaryError: if the server cannot be reached.
        PermanentError: if it refuses, or the schedule has not six fields.
    """
    if len(cron.split()) != _CRON_FIELDS:
        raise PermanentError(f"schedule {cron!r}: six fields are expected, seconds first")
    client = _connect(host)
    version_id, pipeline_id = _upload(client, parameters.code_digest)
    scheduled = replace(parameters, logical_date=_SCHEDULED_DATE)
    with _Translated(host):
        experiment = client.create_experiment(EXPERIMENT)
        earlier = [job.recurring_run_id for job in _schedules(client, experiment.experiment_id)]
        job = client.create_recurring_run(
            experiment_id=experiment.experiment_id,
            job_name=PIPELINE,
            cron_expression=cron,
            no_catchup=True,
            max_concurrency=1,
            params=_for_cluster(scheduled, _SCHEDULED_VERSION),
            pipeline_id=pipeline_id,
            version_id=version_id,
        )
        for recurring_run_id in earlier:
            client.delete_recurring_run(recurring_run_id)
    return Submitted(pipeline_id, version_id, None, job.recurring_run_id)


def _for_cluster(parameters: Parameters, data_version: str) -> dict[str, Any]:
    return replace(parameters, home=CLUSTER_HOME, data_version=data_version).as_arguments()


def _connect(host: str) -> kfp.Client:
    with _Translated(host):
        return kfp.Client(host=host)


def _upload(client: kfp.Client, code_digest: str) -> tuple[str, str]:
    """Return (version id, pipeline id); a version is named by its code and uploaded once."""
    name = f"code-{code_digest[:12]}"
    with _Translated(client._existing_config.host), TemporaryDirectory() as folder:
        package = str(compile_training(Path(folder) / "training.yaml"))
        pipeline_id = client.get_pipeline_id(PIPELINE)
        if pipeline_id is None:
            pipeline_id = client.upload_pipeline(package, pipeline_name=PIPELINE).pipeline_id
        for version in _versions(client, pipeline_id):
            if version.display_name == name:
                return version.pipeline_version_id, pipeline_id
        made = client.upload_pipeline_version(package, name, pipeline_id=pipeline_id)
        return made.pipeline_version_id, pipeline_id


def _versions(client: kfp.Client, pipeline_id: str) -> Iterator[_Versioned]:
    token = ""
    while True:
        page = client.list_pipeline_versions(pipeline_id, page_token=token, page_size=100)
        yield from page.pipeline_versions or []
        token = page.next_page_token or ""
        if not token:
            return


def _schedules(client: kfp.Client, experiment_id: str) -> list[Any]:
    """Return our schedules in the experiment."""
    same_name = {"operation": "EQUALS", "key": "display_name", "stringValue": PIPELINE}
    page = client.list_recurring_runs(
        experiment_id=experiment_id,
        page_size=100,
        filter=json.dumps({"predicates": [same_name]}),
    )
    return [job for job in page.recurring_runs or [] if job.display_name == PIPELINE]


class _Translated:
    """Turns the client's errors into ours."""

    def __init__(self, host: str) -> None:
        self._host = host

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (urllib3.exceptions.HTTPError, TimeoutError)):
            raise TemporaryError(f"{self._host} cannot be reached: {error}") from error
        if isinstance(error, ApiException):
            raise PermanentError(f"{self._host} refused: {error.status} {error.reason}") from error
