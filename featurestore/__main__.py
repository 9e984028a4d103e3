"""The feature stream as a process: `python -m featurestore --port 8002`; it is ready once `/metrics` answers."""

import argparse
import logging
import signal
import sys
import threading
from types import FrameType

from prometheus_client import start_http_server

from featurestore.following import EVERY_S, follow
from featurestore.layout import Place
from featurestore.records import RecordStep, open_records
from featurestore.stream import Step
from featurestore.writer import open_stream, set_up, writing
from ledger.ledger import SqliteLedger
from moderation import telemetry
from moderation.clock import SystemClock
from moderation.errors import TidegateError
from moderation.settings import settings

_LOG = logging.getLogger("featurestore")


def main() -> int:
    """Follow the ledger until a signal stops the process."""
    parser = argparse.ArgumentParser(prog="featurestore", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address of the metrics")
    parser.add_argument("--port", type=int, default=8002, help="port of the metrics")
    parser.add_argument("--every", type=float, default=EVERY_S, help="seconds between two steps")
    arguments = parser.parse_args()
    telemetry.configure("features")
    logging.getLogger("feast").setLevel(logging.WARNING)  # it tells of every row that it writes
    # Feast loads torch wherever it is installed: hundreds of megabytes that no stream has a use for.
    sys.modules["torch"] = None  # type: ignore[assignment]
    stop = threading.Event()

    def stopped(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, stopped)
    signal.signal(signal.SIGINT, stopped)
    is_ready = False

    def on_step(done: Step | RecordStep) -> None:
        nonlocal is_ready
        if not is_ready:
            start_http_server(arguments.port, arguments.host)
            is_ready = True

    try:
        config = settings()
        place = Place.of(config)
        set_up(place)
        with writing(place):
            ledger = SqliteLedger(config.home / "ledger.sqlite")
            clock = SystemClock()
            stream, records = open_stream(place, ledger, clock), open_records(place, ledger, clock)
            follow(stream, records, stop, every_s=arguments.every, on_step=on_step)
    except TidegateError as error:
        _LOG.error("cannot stream", extra={"reason": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
