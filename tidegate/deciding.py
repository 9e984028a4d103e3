"""Sending listings to a running gateway and showing what it decided."""

import base64
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from rich.markup import escape
from rich.table import Table

from components.home import Home
from moderation.clock import Clock, SystemClock
from moderation.decision import SIGNALS
from moderation.errors import PermanentError, TemporaryError
from moderation.settings import settings
from tidegate.console import console, say
from tidegate.serving import admin_token, own_tokens

_TIMEOUT_S: Final = 30.0
_TITLE_CHARS: Final = 60
_NUM_MEMBERS: Final = 2
_COLOURS: Final = {
    "allow": "green",
    "tag": "cyan",
    "review": "yellow",
    "block": "red",
    "suspend": "bold red",
}


@dataclass(frozen=True)
class Listed:
    """A listing to send, and what is known of it where something is."""

    listing: Mapping[str, Any]
    images: Sequence[bytes] = ()
    truth: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Answered:
    """A decision as the gateway gave it, with the time that the caller waited."""

    content: Mapping[str, Any]
    latency_ms: float

    @property
    def scores(self) -> list[Mapping[str, Any]]:
        """Scores of the release that answered; empty for callers who may not see evidence."""
        attempts = (self.content.get("evidence") or {}).get("attempts", [])
        answer = next((a for a in attempts if a["role"] == "answer"), None)
        return list(answer["scores"]) if answer else []

    @property
    def decided_by(self) -> str:
        """Who decided; empty for callers who may not see evidence."""
        return str((self.content.get("evidence") or {}).get("decided_by", ""))

    @property
    def stage_1(self) -> list[Mapping[str, Any]]:
        """Signals of stage 1; empty for callers who may not see evidence."""
        return list(((self.content.get("evidence") or {}).get("stage_1") or {}).get("signals", []))


class GatewayCaller:
    """A caller of one gateway."""

    def __init__(self, url: str, token: str, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._client = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=_TIMEOUT_S,
            trust_env=False,
        )

    def __enter__(self) -> "GatewayCaller":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def decide(self, listed: Listed) -> Answered:
        """Return the decision about one upload.

        Raises:
            PermanentError: if the gateway refuses the listing, saying what is wrong with it.
            TemporaryError: if it cannot be reached or answer now.
        """
        body = {
            "submission_id": f"cli-{uuid.uuid4().hex}",
            "listing": dict(listed.listing),
            "images": [base64.b64encode(data).decode() for data in listed.images],
        }
        began = self._clock.monotonic()
        try:
            response = self._client.post("/v1/decisions", json=body)
        except httpx.HTTPError as error:
            raise TemporaryError(
                f"the gateway at {self._client.base_url} does not answer: {error}; start it with `tidegate serve`"
            ) from error
        latency_ms = (self._clock.monotonic() - began) * 1e3
        if response.status_code != httpx.codes.OK:
            raise _refusal(response)
        return Answered(response.json(), latency_ms)


def _refusal(response: httpx.Response) -> PermanentError | TemporaryError:
    try:
        message = response.json()["message"]
    except (ValueError, KeyError, TypeError):
        message = response.text[:200]
    text = f"the gateway answered {response.status_code}: {message}"
    if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
        return TemporaryError(text)
    return PermanentError(text)


def decide_one(
    file: Path | None,
    *,
    title: str,
    description: str,
    images: Sequence[Path],
    url: str | None,
) -> None:
    """Send one listing and show its decision with the evidence."""
    listed = read_listed(file, title=title, description=description, images=images)
    home = Home(settings().home)
    tokens = settings().gateway_tokens.get_secret_value() or own_tokens(home)
    with GatewayCaller(url or running_gateway(home), admin_token(tokens)) as caller:
        answered = caller.decide(listed)
    show_decisions([(listed, answered)], with_truth=False)
    for reason in answered.content["reasons"]:
        say(f"{reason['code']}: {reason['message']}", markup=False)
    show_stage_1(answered)
    if answered.scores:
        show_signals(answered)
    say(f"trace {answered.content['trace_id']}: tidegate replay shows it again")


def running_gateway(home: Home) -> str:
    """Return the address of the gateway that serves this home.

    Raises:
        TemporaryError: if none is running.
    """
    try:
        return str(json.loads(home.gateway.read_text(encoding="utf-8"))["url"])
    except (OSError, ValueError, KeyError) as error:
        raise TemporaryError(
            "no gateway is running here; start one with `tidegate serve` or name it with --url"
        ) from error


def read_listed(
    file: Path | None, *, title: str = "", description: str = "", images: Sequence[Path] = ()
) -> Listed:
    """Return a listing from a JSON file, from options, or from both, of which options win.

    Raises:
        PermanentError: naming the file that cannot be read, or if there is nothing to judge.
    """
    content: dict[str, Any] = {}
    folder = Path()
    if file is not None:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PermanentError(f"{file}: cannot be read as JSON: {error}") from error
        if not isinstance(content, dict):
            raise PermanentError(f"{file}: an object with `listing` and `images` is expected")
        folder = file.parent
    listing = dict(content.get("listing", {}))
    listing.setdefault("listing_id", f"cli-{uuid.uuid4().hex[:12]}")
    listing |= {k: v for k, v in (("title", title), ("description", description)) if v}
    paths = [folder / name for name in content.get("images", [])] + list(images)
    if not paths and not listing.get("title") and not listing.get("description"):
        raise PermanentError("nothing to judge: give a file, --title or --image")
    return Listed(listing, [_read_image(path) for path in paths])


def _read_image(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PermanentError(f"image {path}: {error}") from error


def show_decisions(rows: Sequence[tuple[Listed, Answered]], *, with_truth: bool = True) -> None:
    """Print what was decided about each listing, and below its title why."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("listing")
    if with_truth:
        table.add_column("truth")
    table.add_column("tier")
    table.add_column("ms", justify="right")
    for listed, answered in rows:
        table.add_row(*_cells(listed, answered, with_truth))
    console.print(table)


def _cells(listed: Listed, answered: Answered, with_truth: bool) -> list[str]:
    tier = answered.content["tier"]
    title = str(listed.listing.get("title") or "(no title)")
    if len(title) > _TITLE_CHARS:
        title = f"{title[: _TITLE_CHARS - 1]}…"
    cells = [f"{escape(title)}\n[dim]{escape(_why(listed, answered))}[/]"]
    if with_truth:
        cells.append(_truth(listed.truth))
    return [*cells, f"[{_COLOURS.get(tier, 'white')}]{tier}[/]", f"{answered.latency_ms:.0f}"]


def _truth(truth: Mapping[str, bool]) -> str:
    if not truth:
        return "?"
    return ", ".join(policy for policy, violates in truth.items() if violates) or "clean"


def _why(listed: Listed, answered: Answered) -> str:
    """Return reasons, the policy in question, the members that say most, and the image that decided."""
    parts = [" ".join(reason["code"] for reason in answered.content["reasons"])]
    if answered.decided_by not in ("", "model"):
        parts.append(f"decided by {answered.decided_by.replace('_', ' ')}")
    score = max(answered.scores, key=lambda s: float(s["probability"]), default=None)
    if score is not None:
        known = [s for s in score["signals"] if s["value"] is not None]
        known.sort(key=lambda s: -float(s["value"]))
        members = ", ".join(f"{s['name']} {float(s['value']):+.1f}" for s in known[:_NUM_MEMBERS])
        parts.append(f"{score['policy']} {float(score['probability']):.3f} ({members})")
        if score["worst_image"] is None:
            parts.append("no image")
        else:
            parts.append(f"worst image {score['worst_image'] + 1} of {len(listed.images)}")
    return " · ".join(part for part in parts if part)


def show_stage_1(answered: Answered) -> None:
    """Print what each stage before the model said."""
    for signal in answered.stage_1:
        said = [signal["name"], signal["status"], signal["reason"], signal["policy"] or ""]
        if signal["tier"] != "allow":
            said.append(f"{signal['tier']} at least")
        found = ", ".join(str(one) for one in signal["found"])
        say(f"  {' '.join(word for word in said if word)}  {found}".rstrip(), markup=False)


def show_signals(answered: Answered) -> None:
    """Print every member's logit under every policy."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("policy", "probability", *SIGNALS):
        table.add_column(name, justify="left" if name == "policy" else "right")
    for score in answered.scores:
        values = {s["name"]: s for s in score["signals"]}
        table.add_row(
            score["policy"],
            f"{float(score['probability']):.4f}",
            *(_value(values.get(name)) for name in SIGNALS),
        )
    console.print(table)


def _value(signal: Mapping[str, Any] | None) -> str:
    if signal is None:
        return "-"
    return f"{float(signal['value']):+.2f}" if signal["value"] is not None else signal["status"]
