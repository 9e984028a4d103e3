"""A gateway on the loopback that answers, refuses and stalls as a test tells it."""

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
import uvicorn


class StubGateway:
    """An ASGI app; uploads are counted from 1."""

    def __init__(self) -> None:
        self.num_uploads = 0
        self.submission_ids: list[str] = []
        self.authorization = ""
        self.answer: dict[str, Any] = {"tier": "allow", "reasons": []}
        self.statuses: Sequence[int] = (200,)
        """Given in turn."""

        self.stall_at = 0
        """Upload at which the whole server stands still for `stall_s`."""

        self.stall_s = 0.3
        self.on_upload: Callable[[int], None] = lambda _: None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.num_uploads += 1
        self.submission_ids.append(orjson.loads(body)["submission_id"])
        self.authorization = dict(scope["headers"]).get(b"authorization", b"").decode()
        self.on_upload(self.num_uploads)
        if self.num_uploads == self.stall_at:
            time.sleep(self.stall_s)
        status = self.statuses[(self.num_uploads - 1) % len(self.statuses)]
        content = orjson.dumps(self.answer)
        headers = [(b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})


@contextmanager
def served(app: StubGateway) -> Iterator[str]:
    """Serve the app in a thread of its own; yields its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            for _ in itertools.takewhile(lambda _: not server.started, range(1000)):
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)
