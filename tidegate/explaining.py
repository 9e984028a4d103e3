"""One explanation as a reviewer reads it: its numbers on the terminal, its images on a page of their own."""

import html
from pathlib import Path
from typing import Final

import httpx
from rich.markup import escape
from rich.table import Table

from components.home import Home
from moderation.errors import PermanentError, TemporaryError
from moderation.explanation import Explanation, Piece, TextPart
from moderation.settings import settings
from tidegate.console import console, say
from tidegate.deciding import running_gateway
from tidegate.serving import admin_token, own_tokens

_TIMEOUT_S: Final = 120.0
_NUM_SHOWN: Final = 8

_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{padding:.1em .8em;text-align:left}td.n{text-align:right}"
    "figure{display:inline-block;margin:.5rem}"
)


def explain(trace_id: str, *, policy: str | None, out: Path | None, url: str | None) -> None:
    """Ask the running gateway why a decision scored as it did; print it, and write it as a page.

    Raises:
        PermanentError: if it refuses: no such decision, no explainer, or not the role for it.
        TemporaryError: if it cannot be reached or answer now.
    """
    home = Home(settings().home)
    tokens = settings().gateway_tokens.get_secret_value() or own_tokens(home)
    found = fetch(url or running_gateway(home), admin_token(tokens), trace_id, policy)
    show(found)
    path = out or home.folder / "explanations" / f"{trace_id}-{found.policy}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(found, trace_id), encoding="utf-8")
    say(f"page       {path}  (evidence: for reviewers alone)")


def fetch(url: str, token: str, trace_id: str, policy: str | None) -> Explanation:
    """Return the explanation that a gateway gives.

    Raises:
        PermanentError: if it refuses.
        TemporaryError: if it cannot be reached or answer now.
    """
    try:
        response = httpx.get(
            f"{url}/v1/decisions/{trace_id}/explanation",
            params={} if policy is None else {"policy": policy},
            headers={"Authorization": f"Bearer {token}"},
            timeout=_TIMEOUT_S,
            trust_env=False,
        )
    except httpx.HTTPError as error:
        raise TemporaryError(f"the gateway at {url} does not answer: {error}") from error
    if response.status_code == httpx.codes.OK:
        return Explanation.model_validate_json(response.content)
    try:
        message = response.json()["message"]
    except (ValueError, KeyError, TypeError):
        message = response.text[:200]
    text = f"the gateway answered {response.status_code}: {message}"
    if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        raise TemporaryError(text)
    raise PermanentError(text)


def show(found: Explanation) -> None:
    """Print the part of an explanation that is numbers and text."""
    say(f"policy     {found.policy}: log-odds {found.log_odds:+.3f}, base {found.base:+.3f}")
    table = Table("member", "logit", "weight", "share", box=None)
    for one in found.members:
        logit = "no answer" if one.logit is None else f"{one.logit:+.3f}"
        table.add_row(one.member, logit, f"{one.weight:.3f}", f"{one.share:+.3f}")
    console.print(table)
    for name, part in _texts(found):
        say(f"{name}: {part.total:+.3f} in all, {part.rest:+.3f} of it without a place")
        for piece in part.pieces[:_NUM_SHOWN]:
            say(f"  {piece.score:+.3f}  {escape(piece.text)}  ({_place(piece)})")
    if found.behaviour:
        say(f"behaviour: base {found.behaviour.base:+.3f}")
        for share in found.behaviour.features[:_NUM_SHOWN]:
            value = "missing" if share.value is None else f"{share.value:g}"
            say(f"  {share.score:+.3f}  {share.feature} = {value}")
    for heat in found.heat:
        say(f"image {heat.image}: heat {heat.strength:.3g}, on the page")


def page(found: Explanation, trace_id: str) -> str:
    """Return an explanation as one HTML page that loads nothing."""
    members = "".join(
        _row(
            one.member,
            "no answer" if one.logit is None else f"{one.logit:+.3f}",
            f"{one.share:+.3f}",
        )
        for one in found.members
    )
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>{html.escape(trace_id)}</title><style>{_STYLE}</style>",
        f"<h1>{html.escape(found.policy)}: log-odds {found.log_odds:+.3f}</h1>",
        f"<p>Decision {html.escape(trace_id)}, bundle {html.escape(found.bundle)}. Evidence: for reviewers alone.",
        f"<h2>Members</h2><table>{_row('base', '', f'{found.base:+.3f}')}{members}</table>",
    ]
    for name, part in _texts(found):
        rows = "".join(_row(p.text, _place(p), f"{p.score:+.3f}") for p in part.pieces)
        parts.append(f"<h2>{html.escape(name)}</h2><table>{rows}</table>")
    if found.behaviour:
        rows = "".join(
            _row(s.feature, "missing" if s.value is None else f"{s.value:g}", f"{s.score:+.3f}")
            for s in found.behaviour.features
        )
        parts.append(f"<h2>Behaviour</h2><table>{rows}</table>")
    parts += [
        f'<figure><img alt="image {one.image}" src="data:image/png;base64,{html.escape(one.overlay_png)}">'
        f"<figcaption>image {one.image}, heat {one.strength:.3g}</figcaption></figure>"
        for one in found.heat
    ]
    return "\n".join(parts)


def _texts(found: Explanation) -> list[tuple[str, TextPart]]:
    named = (("Words, text tower", found.text), ("Words, n-grams", found.ngram))
    return [(name, part) for name, part in named if part is not None]


def _place(piece: Piece) -> str:
    return f"{piece.field} {piece.begin}-{piece.end}"


def _row(first: str, second: str, third: str) -> str:
    return f"<tr><td>{html.escape(first)}<td class=n>{html.escape(second)}<td class=n>{third}</tr>"
