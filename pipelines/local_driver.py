"""The process in which Kubeflow Pipelines' local runner works: `python -m pipelines.local_driver REQUEST`.

It is a process of its own because the runner prints to standard output, replaces `print` for everyone and cannot be
stopped together with its steps in any other way.
"""

import importlib
import json
import logging
import sys
from pathlib import Path

from kfp import dsl, local


def main(request: Path) -> None:
    """Run the pipeline that the request describes and write its outputs where the request says."""
    # The runner tells of a cached step only through the root logger.
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)s - %(message)s")
    asked = json.loads(request.read_text(encoding="utf-8"))
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=asked["root"],
        raise_on_error=True,
        enable_caching=True,
    )
    module, _, function = asked["pipeline"].partition(":")
    pipeline = getattr(importlib.import_module(module), function)
    # A cluster retries what a lost node broke; here a second try would only repeat the same error, minutes later.
    for task in pipeline.pipeline_spec.root.dag.tasks.values():
        task.ClearField("retry_policy")
    done = pipeline(**asked["arguments"])
    outputs = {
        name: value.path if isinstance(value, dsl.Artifact) else str(value)
        for name, value in done.outputs.items()
    }
    Path(asked["result"]).write_text(json.dumps(outputs), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
