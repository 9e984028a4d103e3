import asyncio
import base64
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import grpc
import grpc.aio
import numpy as np
from PIL import Image

from moderation.decision import SIGNALS
from moderation.features import FEATURE_NAMES
from serving.openinference import (
    MODEL_NAME,
    PREFILTER_MODEL_NAME,
    RELEASE_METADATA_KEY,
    SERVICE,
    messages,
    pack_bytes,
)
from serving.release import Release

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
BUNDLE = "a" * 64
POLICIES = ("weapons", "counterfeit", "spam")
TOKENS = "shop:submitter:s3cret,ana:reviewer:r3view,root:admin:adm1n"


def a_release(**changes: Any) -> Release:
    fields: dict[str, Any] = {
        "bundle": BUNDLE,
        "policies": POLICIES,
        "members": SIGNALS,
        "features": FEATURE_NAMES,
        "thresholds": {policy: {"tag": 0.1, "review": 0.5, "block": 0.9} for policy in POLICIES},
        "versions": {"heads.image": "i1", "heads.text": "t1", "ngram": "n1"},
    }
    return Release.model_validate(fields | changes)


class FakePredictor:
    """A V2 server over real gRPC whose answers a test sets; what a network can do to a gateway, it does."""

    def __init__(self) -> None:
        self.release = a_release()
        self.probability_P = [0.01, 0.02, 0.03]
        self.delay_s = 0.0
        self.error: grpc.StatusCode | None = None
        self.spoil: Callable[[Any], None] = lambda response: None
        self.requests: list[Any] = []
        self.prefilter = b""
        self.url = ""
        self._server: Any = None

    async def start(self) -> None:
        self._server = grpc.aio.server(ThreadPoolExecutor(1))
        calls = {
            "ModelInfer": (self._infer, messages.ModelInferRequest),
            "ModelMetadata": (self._metadata, messages.ModelMetadataRequest),
            "ModelReady": (self._ready, messages.ModelReadyRequest),
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                call, request.FromString, lambda response: response.SerializeToString()
            )
            for name, (call, request) in calls.items()
        }
        service = grpc.method_handlers_generic_handler(SERVICE.strip("/"), handlers)
        self._server.add_generic_rpc_handlers((service,))
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.url = f"grpc://127.0.0.1:{port}"
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    async def _ready(self, request: Any, context: Any) -> Any:
        return messages.ModelReadyResponse(ready=True)

    async def _metadata(self, request: Any, context: Any) -> Any:
        context.set_trailing_metadata(((RELEASE_METADATA_KEY, self.release.to_bytes()),))
        return messages.ModelMetadataResponse(name=MODEL_NAME)

    async def _infer(self, request: Any, context: Any) -> Any:
        if request.model_name == PREFILTER_MODEL_NAME and self.prefilter:
            handed = messages.ModelInferResponse(model_name=request.model_name)
            handed.outputs.add(name="prefilter", datatype="BYTES", shape=[1])
            handed.raw_output_contents.append(pack_bytes([self.prefilter]))
            return handed
        self.requests.append(request)
        await asyncio.sleep(self.delay_s)
        if self.error:
            await context.abort(self.error, "as told")
        num_policies = len(self.release.policies)
        signals = np.linspace(-3, 3, num_policies * 5).reshape(1, num_policies, 5)
        outputs = {
            "probability": np.array([self.probability_P]),
            "signals": signals,
            "signal_status": np.zeros((1, num_policies, 5), np.int8),
            "worst_image": np.full((1, num_policies), -1, np.int32),
        }
        response = messages.ModelInferResponse(
            model_name=MODEL_NAME, model_version=self.release.bundle, id="1"
        )
        types = {"f8": "FP64", "i1": "INT8", "i4": "INT32"}
        for name, array in outputs.items():
            kind = types[array.dtype.str[1:]]
            response.outputs.add(name=name, datatype=kind, shape=array.shape)
            response.raw_output_contents.append(array.tobytes())
        self.spoil(response)
        return response


def a_photo(kind: str = "JPEG", size: tuple[int, int] = (40, 30), **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, "teal").save(stream, kind, **options)
    return stream.getvalue()


def as_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def an_upload(**changes: Any) -> dict[str, Any]:
    listing = {"listing_id": "l1", "seller_id": "seller-1", "title": "Blue bicycle"}
    return {"listing": listing, "images": [as_text(a_photo())]} | changes
