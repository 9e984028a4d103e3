"""The OpenAPI schema says all that the gateway checks, though routes read bodies themselves and code checks values."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from fastapi import FastAPI
from starlette.routing import Match, Route
from starlette.types import Scope

from moderation.listing import CURRENCIES, MAX_IMAGES, MAX_PRICE, TruthSource
from serving.gateway.multipart import MEDIA_TYPE

_API: Final = "/v1/"
_NO_NUL: Final = "^[^\\u0000]*$"
_IMAGES: Final = "image/jpeg, image/png, image/webp, image/gif"
_JSON: Final = "application/json"


def complete_schema(app: FastAPI, policies: Sequence[str]) -> None:
    """Make the app's schema tell who may call, and what is refused by code alone.

    Args:
        app: with all its routes.
        policies: ids that are in force.
    """
    schema = app.openapi()
    schema["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
    for path, operation in _operations(schema):
        # FastAPI announces its own refusals; here every refusal is ours.
        operation["responses"].pop("422", None)
        if path.startswith(_API):
            operation["security"] = [{"token": []}]
        for parameter in operation.get("parameters", ()):
            if parameter["name"] == "trace_id":
                parameter["schema"]["pattern"] = "^[0-9a-f]{32}$"
    _complete_decisions(schema["paths"]["/v1/decisions"]["post"])
    truth = _body(schema["paths"]["/v1/ground-truth"]["post"])
    truth["properties"]["policy"]["enum"] = list(policies)
    sources = [source.value for source in TruthSource if source is not TruthSource.IMPORT]
    truth["properties"]["source"] = {"enum": sources, "default": TruthSource.REVIEW.value}
    reversal = _body(schema["paths"]["/v1/reversals"]["post"])
    _values(reversal["properties"]["policy"])["enum"] = list(policies)


def methods_of(app: FastAPI, scope: Scope) -> list[str]:
    """Return the methods of all routes of a request's path, in order."""
    found: set[str] = set()
    for route in app.routes:
        if isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return sorted(found)


def _operations(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for operation in methods.values():
            yield path, operation


def _complete_decisions(operation: dict[str, Any]) -> None:
    body, form = _body(operation), _body(operation, MEDIA_TYPE)
    listing = body["properties"]["listing"]
    form["properties"] = {
        "listing": listing,
        "images": form["properties"]["images"] | {"maxItems": MAX_IMAGES},
        "submission_id": _values(body["properties"]["submission_id"]),
    }
    form["additionalProperties"] = False
    content = operation["requestBody"]["content"][MEDIA_TYPE]
    content["encoding"]["images"] = {"contentType": _IMAGES}
    for field in ("title", "description"):
        listing["properties"][field]["pattern"] = _NO_NUL
    _values(listing["properties"]["price"]).update(minimum=0, maximum=MAX_PRICE)
    _values(listing["properties"]["currency"])["enum"] = sorted(CURRENCIES)
    image = {"contentEncoding": "base64", "contentMediaType": "image/*"}
    body["properties"]["images"]["items"].update(image)


def _body(operation: dict[str, Any], media_type: str = _JSON) -> dict[str, Any]:
    found: dict[str, Any] = operation["requestBody"]["content"][media_type]["schema"]
    return found


def _values(field: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an optional field's values, null aside."""
    found: dict[str, Any] = next(one for one in field["anyOf"] if one.get("type") != "null")
    return found
