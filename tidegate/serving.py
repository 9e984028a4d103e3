"""Serving on this machine: a predictor and a gateway as processes on the loopback, for one bundle."""

import json
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from components.home import Home
from moderation.bundle import Bundle
from moderation.errors import PermanentError
from moderation.settings import Settings, settings
from serving.process import ServingProcess, start_gateway, start_predictor
from serving.routing import Route, RoutingTable, load_table, write_table
from tidegate.console import console, say
from tidegate.training import with_policies

_TOKEN_BYTES: Final = 24


@dataclass(frozen=True)
class Served:
    """A bundle that answers."""

    gateway: ServingProcess
    predictor: ServingProcess
    token: str
    """Of the laptop's own admin, who may see evidence."""


@contextmanager
def serving(bundle: Bundle, config: Settings) -> Iterator[Served]:
    """Serve `bundle` for the length of the block; where it listens is written below the home folder.

    Raises:
        StartFailed: if predictor or gateway do not come up; the message ends with what they logged last.
    """
    home = Home(config.home.resolve())
    tokens = config.gateway_tokens.get_secret_value() or own_tokens(home)
    environment = {
        "TIDEGATE__HOME": str(home.folder),
        "TIDEGATE__POLICY_FILE": str(config.policy_file.resolve()),
        "TIDEGATE__GATEWAY_TOKENS": tokens,
    }
    with start_predictor(
        bundle.folder,
        log_folder=home.logs,
        num_threads=config.num_threads,
        environment=environment,
    ) as predictor:
        route(home.routing, bundle.digest, predictor.url)
        with start_gateway(
            routing=home.routing, log_folder=home.logs, environment=environment
        ) as gateway:
            home.gateway.write_text(json.dumps({"url": gateway.url}), encoding="utf-8")
            try:
                yield Served(gateway, predictor, admin_token(tokens))
            finally:
                home.gateway.unlink(missing_ok=True)


def route(path: Path, digest: str, url: str) -> None:
    """Send all traffic to one release; the revision grows with every change."""
    revision = 0
    with suppress(PermanentError, OSError):
        revision = load_table(path).revision
    releases = {digest: Route(url=url, weight=1.0)}
    write_table(path, RoutingTable(revision=revision + 1, champion=digest, releases=releases))


def own_tokens(home: Home) -> str:
    """Return the laptop's own caller, made once and readable by its owner only."""
    path = home.tokens
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(f"laptop:admin:{secrets.token_urlsafe(_TOKEN_BYTES)}", encoding="utf-8")
    return path.read_text(encoding="utf-8")


def admin_token(tokens: str) -> str:
    """Return the token of the first caller who may see evidence, else of the first one.

    Raises:
        PermanentError: if nobody is admitted.
    """
    entries = [entry.strip().split(":", 2) for entry in tokens.split(",") if entry.strip()]
    entries.sort(key=lambda entry: entry[1:2] != ["admin"])
    if not entries or len(entries[0]) != 3:  # name, role, token
        raise PermanentError("TIDEGATE__GATEWAY_TOKENS admits nobody; write name:role:token")
    return entries[0][2]


def chosen_bundle(path: Path | None, config: Settings) -> Bundle:
    """Return the bundle in `path`, or the registry's champion.

    Raises:
        PermanentError: if there is no champion yet.
        BundleRejected: if the bundle was altered.
    """
    if path is not None:
        return Bundle.open(path)
    from components.registry import Registry  # mlflow takes seconds to import

    home = Home(config.home)
    registry = Registry(
        config.tracking_url or home.tracking_url, bundles=home.bundles, artifacts=home.artifacts
    )
    return registry.resolve("champion")


def serve(*, bundle: Path | None, policies: Path | None) -> None:
    """Serve until Ctrl-C or a termination signal."""
    config = with_policies(policies)
    with console.status("verifying the bundle, starting predictor and gateway ..."):
        found = chosen_bundle(bundle, config)
        context = serving(found, config)
        served = context.__enter__()
    try:
        show_addresses(served, Home(settings().home))
        say("Ctrl-C stops both.")
        with suppress(KeyboardInterrupt):
            signal.pause()
    finally:
        context.__exit__(None, None, None)


def show_addresses(served: Served, home: Home) -> None:
    """Say where the processes listen and how to call them."""
    say(f"gateway    {served.gateway.http_url}/docs  (log {served.gateway.log})")
    say(f"predictor  {served.predictor.http_url}/v2  (log {served.predictor.log})")
    say(f"token      in {home.tokens}, sent as `Authorization: Bearer <token>`")
    say('try        tidegate decide --title "airsoft rifle, never fired"', markup=False)
