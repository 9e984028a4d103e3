"""What each step may use on a cluster; the local runner ignores all of it."""

from dataclasses import dataclass
from typing import Final

from kfp import dsl, kubernetes


@dataclass(frozen=True)
class Resources:
    """Limits of one step."""

    cpu: str
    memory: str
    timeout_s: int
    num_retries: int = 1
    on_gpu: bool = False
    """Whether the step can use a GPU: `embed` tunes towers, all others compute on cached embeddings."""


# Requests equal limits, so that a step is never evicted for another's burst. Timeouts are about five times what the
# step takes on 100,000 listings: they end a hung pod, they do not police a slow day.
RESOURCES: Final = {
    "ingest": Resources("1", "2Gi", 3_600, num_retries=3),
    "skew": Resources("1", "2Gi", 1_800, num_retries=3),
    "validate": Resources("1", "2Gi", 1_800),
    "snapshot": Resources("2", "6Gi", 3_600),
    "embed": Resources("8", "8Gi", 14_400, num_retries=2, on_gpu=True),
    "tune": Resources("4", "8Gi", 7_200, num_retries=2),
    "train": Resources("8", "16Gi", 21_600),
    "calibrate": Resources("2", "4Gi", 3_600),
    "bundle": Resources("1", "4Gi", 1_800),
    "evaluate": Resources("4", "8Gi", 7_200),
    "resolve": Resources("1", "2Gi", 1_800, num_retries=3),
    "prove": Resources("8", "16Gi", 14_400),
    "judge": Resources("2", "8Gi", 3_600),
    "register": Resources("1", "2Gi", 1_800, num_retries=3),
}

_GPU: Final = "nvidia.com/gpu"
_HOME_CLAIM: Final = "tidegate-home"
"""Claim of the volume that holds the ledger, the content store and the caches on a cluster."""

CLUSTER_HOME: Final = "/var/lib/tidegate"


def on_cluster(task: dsl.PipelineTask, step: str, num_gpus: int) -> dsl.PipelineTask:
    """Give `task` the limits of `step`, its volume and its retries; return the task."""
    limits = RESOURCES[step]
    task.set_display_name(step)
    task.set_cpu_request(limits.cpu).set_cpu_limit(limits.cpu)
    task.set_memory_request(limits.memory).set_memory_limit(limits.memory)
    task.set_retry(limits.num_retries, backoff_duration="30s", backoff_factor=2.0)
    task.set_env_variable("PYTHONHASHSEED", "0")
    if limits.on_gpu:
        task.set_accelerator_type(_GPU).set_accelerator_limit(num_gpus)
        kubernetes.add_toleration(task, key=_GPU, operator="Exists", effect="NoSchedule")
    kubernetes.mount_pvc(task, pvc_name=_HOME_CLAIM, mount_path=CLUSTER_HOME)
    kubernetes.set_timeout(task, seconds=limits.timeout_s)
    return task
