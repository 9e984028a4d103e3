"""A little OTLP/HTTP collector over real HTTP: it keeps the spans that processes send to it, until it is stopped."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Seen:
    """One span as it came over the wire."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, str]
    is_error: bool
    error: str


class Collector:
    """Listens on a free port of the loopback for the length of a `with` block."""

    def __init__(self) -> None:
        self._spans: list[Seen] = []
        self._changed = threading.Condition()
        spans, changed = self._spans, self._changed

        class _Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                found = _read(ExportTraceServiceRequest.FromString(body))
                with changed:
                    spans.extend(found)
                    changed.notify_all()
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"

    def __enter__(self) -> "Collector":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop listening: whoever sends is refused from now on."""
        self._server.shutdown()
        self._server.server_close()

    def wait_for(self, is_enough: Callable[[list[Seen]], bool], wait_s: float = 10.0) -> list[Seen]:
        """Return the spans once they are enough; fails after `wait_s`."""
        with self._changed:
            came = self._changed.wait_for(lambda: is_enough(self._spans), wait_s)
            assert came, f"only {[span.name for span in self._spans]} came"
            return list(self._spans)


def _read(request: ExportTraceServiceRequest) -> list[Seen]:
    found = []
    for resource in request.resource_spans:
        facts = {one.key: one.value.string_value for one in resource.resource.attributes}
        for scope in resource.scope_spans:
            found += [
                Seen(
                    facts["service.name"],
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    {
                        a.key: a.value.string_value or str(a.value.int_value)
                        for a in span.attributes
                    },
                    span.status.code == span.status.STATUS_CODE_ERROR,
                    span.status.message,
                )
                for span in scope.spans
            ]
    return found
