"""Explain one bundle: `python -m serving.explainer --bundle DIR --http_port 8082`."""

import argparse
import logging
import sys
from pathlib import Path

from moderation import telemetry
from moderation.errors import TidegateError
from moderation.settings import settings

_LOG = logging.getLogger("serving.explainer")


def main() -> int:
    """Load the bundle, then explain it until a signal comes; a bundle that does not verify ends the process."""
    arguments = _parse()
    telemetry.configure("explainer")
    # KServe reads the command line itself when it is imported, and logs every request unless told otherwise.
    from kserve import model_server

    model_server.args.configure_logging = False
    for name in ("kserve", "kserve.trace", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)

    import torch

    from moderation.explaining.listing import Explainer
    from moderation.scoring import Scorer
    from serving.explainer.model import ExplainerModel
    from serving.explainer.server import ExplainerServer

    try:
        telemetry.export_traces("explainer", settings())
        torch.set_num_threads(arguments.num_threads)
        scorer = Scorer.load(arguments.bundle, num_threads=arguments.num_threads)
        model = ExplainerModel(Explainer(scorer))
        _LOG.info("explaining", extra={"bundle": scorer.digest, "http_port": arguments.http_port})
        ExplainerServer(model, host=arguments.host, http_port=arguments.http_port).serve()
    except TidegateError as error:
        _LOG.error("cannot explain", extra={"reason": str(error)})
        return 1
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="serving.explainer", description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--http_port", type=int, default=8082, help="port of V1 and V2 over REST")
    parser.add_argument(
        "--num_threads", type=int, default=settings().num_threads, help="threads of torch"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
