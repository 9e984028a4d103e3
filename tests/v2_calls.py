"""Calls to a predictor process in the Open Inference Protocol, as any client makes them."""

import base64
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import numpy as np
import yaml

from serving.openinference import MAX_MESSAGE_BYTES, MODEL_NAME, SERVICE, add_input, messages
from serving.process import ServingProcess

INFER = f"/v2/models/{MODEL_NAME}/infer"
CONTRACT = Path("policies/release.yaml")


def contract_with(path: Path, **predictor: Any) -> Path:
    """Write the release contract with other rules for the predictor."""
    content = yaml.safe_load(CONTRACT.read_text())
    content["serving"]["predictor"] |= predictor
    path.write_text(yaml.safe_dump(content))
    return path


def json_body(titles: list[str], images: list[bytes] | None = None, **more: Any) -> dict[str, Any]:
    """Return a request; every listing has all of `images`."""
    num = len(titles)
    inputs: list[dict[str, Any]] = [
        {"name": "title", "datatype": "BYTES", "shape": [num], "data": titles}
    ]
    if images:
        data = [base64.b64encode(image).decode() for image in images] * num
        inputs += [
            {"name": "images", "datatype": "BYTES", "shape": [len(data)], "data": data},
            {
                "name": "image_count",
                "datatype": "INT32",
                "shape": [num],
                "data": [len(images)] * num,
            },
        ]
    return {"inputs": inputs, **more}


def grpc_request(titles: list[str], images: list[bytes] | None = None, **parameters: Any) -> Any:
    request = messages.ModelInferRequest(model_name=MODEL_NAME)
    add_input(request, "title", [title.encode() for title in titles])
    if images:
        add_input(request, "images", images * len(titles))
        counts = np.full(len(titles), len(images), np.int32)
        add_input(request, "image_count", counts)
    for name, value in parameters.items():
        kind = "int64_param" if isinstance(value, int) else "string_param"
        setattr(request.parameters[name], kind, value)
    return request


def channel(process: ServingProcess) -> grpc.aio.Channel:
    options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ]
    return grpc.aio.insecure_channel(process.url.removeprefix("grpc://"), options)


def method(opened: grpc.aio.Channel, name: str) -> Any:
    return opened.unary_unary(
        f"{SERVICE}/{name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=getattr(messages, f"{name}Response").FromString,
    )


def metric(process: ServingProcess, line: str) -> float:
    """Return the value of one metric with its labels; 0 where it is not there yet."""
    text = httpx.get(f"{process.http_url}/metrics", trust_env=False).text
    found = [row for row in text.splitlines() if row.startswith(f"{line} ")]
    return float(found[0].split()[-1]) if found else 0.0
