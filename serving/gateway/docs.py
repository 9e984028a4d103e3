"""The API's documentation as one plain page: no script, nothing from another host."""

import html
import json
from typing import Any

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code,pre{font:14px/1.4 ui-monospace,monospace}pre{background:#f4f4f4;padding:1rem;overflow:auto}"
    "h2 code{background:#e8eef7;padding:.1em .4em}summary{cursor:pointer}"
)


def docs_page(schema: dict[str, Any]) -> str:
    """Return the page of an OpenAPI schema."""
    info = schema["info"]
    title = html.escape(info["title"])
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>{title}</title><style>{_STYLE}</style>",
        f"<h1>{title} {html.escape(info['version'])}</h1><p>{html.escape(info.get('description', ''))}",
        "<p>Machine-readable: <a href=openapi.json>openapi.json</a>",
    ]
    for path, operations in schema["paths"].items():
        parts.extend(_operation(path, method, op) for method, op in operations.items())
    parts.append("<h1>Schemas</h1>")
    for name, content in schema.get("components", {}).get("schemas", {}).items():
        parts.append(_details(name, content, anchor=name))
    return "\n".join(parts)


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    heading = f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>"
    text = html.escape(operation.get("description", operation.get("summary", "")))
    answers = "".join(
        f"<li><code>{status}</code> {html.escape(answer.get('description', ''))}"
        for status, answer in operation.get("responses", {}).items()
    )
    body = operation.get("requestBody")
    return (
        f"{heading}<p>{text}</p>{_details('Request body', body) if body else ''}<ul>{answers}</ul>"
    )


def _details(name: str, content: Any, *, anchor: str = "") -> str:
    text = html.escape(json.dumps(content, indent=2, ensure_ascii=False))
    opening = f"<details id={html.escape(anchor)}>" if anchor else "<details>"
    return f"{opening}<summary>{html.escape(name)}</summary><pre>{text}</pre></details>"
