"""Serve one judged bundle: `python -m serving.predictor --bundle DIR --http_port 8080 --grpc_port 8081`.

A bundle that the gates did not pass is refused before its models are opened.
"""

import argparse
import logging
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from moderation import telemetry
from moderation.errors import TidegateError
from moderation.settings import settings

if TYPE_CHECKING:
    from moderation.scoring import Scorer
    from serving.predictor.model import TidegateModel

_LOG = logging.getLogger("serving.predictor")


def main() -> int:
    """Load the bundle, then serve it until a signal comes; one that is altered or did not pass ends the process."""
    arguments = _parse()
    telemetry.configure("predictor")
    # KServe reads the command line itself when it is imported, and logs every request unless told otherwise.
    from kserve import model_server

    model_server.args.configure_logging = False
    for name in ("kserve", "kserve.trace", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("kserve").addFilter(_is_ours)

    from serving.garbage import freeze_loaded
    from serving.predictor.prefilter import PrefilterModel
    from serving.predictor.server import PredictorServer

    try:
        telemetry.export_traces("predictor", settings())
        scorer, model = _load(arguments)
        found = scorer.prefilter
        server = PredictorServer(
            model,
            None if found is None else PrefilterModel(found, scorer.digest),
            host=arguments.host,
            http_port=arguments.http_port,
            grpc_port=arguments.grpc_port,
        )
        freeze_loaded()
        server.serve()
    except TidegateError as error:
        _LOG.error("cannot serve", extra={"reason": str(error)})
        return 1
    return 0


def _load(arguments: argparse.Namespace) -> "tuple[Scorer, TidegateModel]":
    """Return the bundle and the model that queues for it, warmed up."""
    from moderation.bundle import Bundle
    from moderation.release import load_release
    from serving.engines import EngineChoice, trusted_scorer
    from serving.predictor.admission import admit
    from serving.predictor.intake import Intake
    from serving.predictor.model import TidegateModel, release_of
    from serving.predictor.preparing import PreparingProcesses
    from serving.predictor.queue import BatchQueue
    from serving.predictor.specimen import specimen
    from serving.predictor.threads import plan_threads, run_on, visible_cores
    from serving.predictor.warming import warm_up

    config = settings()
    contract = load_release(config.release_file)
    bundle = Bundle.open(arguments.bundle)
    admit(
        bundle,
        contract.digest,
        accepts=config.release_profile,
        is_unattested=arguments.unattested,
    )
    rules = contract.serving.predictor
    plan = plan_threads(
        visible_cores(),
        arguments.num_threads,
        workers=arguments.num_workers,
        preparers=config.predictor_preparers,
        is_pinned=config.predictor_pin_threads,
    )
    scorer = run_on(
        plan.engine_cores,
        partial(
            trusted_scorer,
            bundle,
            EngineChoice.of(config, arguments.num_threads),
            config.release_file,
            num_threads=arguments.num_threads,
        ),
    )
    # Whoever runs this process starts it again; what was let in is answered first.
    preparing = PreparingProcesses(
        bundle.folder,
        plan.preparers,
        plan.preparer_cores,
        on_broken=partial(signal.raise_signal, signal.SIGTERM),
    )
    queue = BatchQueue(scorer, preparing, rules, plan)
    prepared = scorer.prepare(specimen())
    run_on(plan.engine_cores, partial(warm_up, scorer, prepared, rules.max_batch, queue.latency))
    _LOG.info(
        "serving",
        extra={
            "bundle": scorer.digest,
            "engine": scorer.engine,
            "http_port": arguments.http_port,
            "workers": plan.workers,
            "num_threads": arguments.num_threads,
            "preparers": plan.preparers,
            "fixed_ms": round(queue.latency.fixed_s * 1e3, 3),
            "pass_ms": round(queue.latency.pass_s * 1e3, 3),
        },
    )
    return scorer, TidegateModel(queue, release_of(scorer), Intake(rules))


def _is_ours(record: logging.LogRecord) -> bool:
    """Leave out the stack trace of each bad request: it is answered, counted, and the caller's to mend."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or kind.__name__ != "InvalidInput"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="serving.predictor", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--http_port", type=int, default=8080, help="port of V2 over REST")
    parser.add_argument("--grpc_port", type=int, default=8081, help="port of V2 over gRPC")
    parser.add_argument(
        "--num_threads",
        type=int,
        default=settings().num_threads,
        help="threads of one inference session",
    )
    parser.add_argument(
        "--num_workers",
        type=int,
        default=settings().predictor_workers,
        help="batches scored at once; 0 for as many as fill the visible cores",
    )
    parser.add_argument(
        "--unattested",
        action="store_true",
        help="serve the bundle whatever the gates say of it: for tests and measurements, never for a marketplace",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
