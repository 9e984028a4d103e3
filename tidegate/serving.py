"""Serving on this machine: predictor, gateway and feature stream as processes on the loopback, for one bundle.

Here a bundle gets its traffic, so here it is refused without a passing attestation, wherever its folder came from, or
one that was compared with another champion than today's. The predictor looks at the attestation once more by itself.
"""

import json
import secrets
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from components.home import Home
from moderation.attestation import Attestation
from moderation.bundle import Bundle
from moderation.errors import PermanentError
from moderation.settings import Settings, settings
from serving.process import (
    ServingProcess,
    start_explainer,
    start_features,
    start_gateway,
    start_predictor,
)
from serving.routing import Route, RoutingTable, load_table, write_table
from tidegate.console import console, say
from tidegate.releasing import CHAMPION, check_release, contract_of, kept_bundle, named_bundle
from tidegate.training import with_policies

_TOKEN_BYTES: Final = 24


@dataclass(frozen=True)
class Served:
    """A bundle that answers."""

    gateway: ServingProcess
    predictor: ServingProcess
    features: ServingProcess
    """The stream that keeps behaviour features up to date."""

    token: str
    """Of the laptop's own admin, who may see evidence."""

    attestation: Attestation
    """What lets the bundle answer."""

    explainer: ServingProcess | None = None
    """What explains scores to reviewers, where one was asked for."""


@contextmanager
def serving(bundle: Bundle, config: Settings, *, with_explainer: bool = False) -> Iterator[Served]:
    """Serve `bundle` for the length of the block; where it listens is written below the home folder.

    Raises:
        GateRejected: if no attestation of the bundle passes under the contract in force, before anything starts.
        StartFailed: if predictor or gateway do not come up; the message ends with what they logged last.
    """
    attestation = check_release(bundle, config)
    home = Home(config.home.resolve())
    bundle = kept_bundle(bundle, home)
    tokens = config.gateway_tokens.get_secret_value() or own_tokens(home)
    environment = {
        "TIDEGATE__HOME": str(home.folder),
        "TIDEGATE__POLICY_FILE": str(config.policy_file.resolve()),
        "TIDEGATE__RELEASE_FILE": str(config.release_file.resolve()),
        "TIDEGATE__RELEASE_PROFILE": config.release_profile,
        "TIDEGATE__GATEWAY_TOKENS": tokens,
    }
    if config.pattern_file is not None:
        environment["TIDEGATE__PATTERN_FILE"] = str(config.pattern_file.resolve())
    with (
        start_features(log_folder=home.logs, environment=environment) as features,
        start_predictor(
            bundle.folder,
            log_folder=home.logs,
            num_threads=config.num_threads,
            environment=environment,
        ) as predictor,
        explaining(bundle, home, environment, is_wanted=with_explainer) as explainer,
    ):
        if explainer is not None:
            environment["TIDEGATE__EXPLAINER_URL"] = explainer.http_url
        route(home.routing, attestation, predictor.url)
        with start_gateway(
            routing=home.routing, log_folder=home.logs, environment=environment
        ) as gateway:
            home.gateway.write_text(json.dumps({"url": gateway.url}), encoding="utf-8")
            try:
                yield Served(
                    gateway, predictor, features, admin_token(tokens), attestation, explainer
                )
            finally:
                home.gateway.unlink(missing_ok=True)


@contextmanager
def explaining(
    bundle: Bundle, home: Home, environment: Mapping[str, str], *, is_wanted: bool
) -> Iterator[ServingProcess | None]:
    """Run the bundle's explainer for the length of the block if it is wanted: it takes torch, and 1 GB."""
    if not is_wanted:
        yield None
        return
    with start_explainer(bundle.folder, log_folder=home.logs, environment=environment) as explainer:
        yield explainer


def route(path: Path, attestation: Attestation, url: str) -> None:
    """Send all traffic to one judged release; the revision grows with every change."""
    revision = 0
    with suppress(PermanentError, OSError):
        revision = load_table(path).revision
    digest = attestation.bundle
    releases = {digest: Route.of(attestation, url, weight=1.0)}
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


def serve(*, bundle: Path | None, policies: Path | None, with_explainer: bool = False) -> None:
    """Serve until Ctrl-C or a termination signal."""
    config = with_policies(policies)
    with console.status("verifying the bundle, starting the processes ..."):
        found = named_bundle(CHAMPION if bundle is None else str(bundle), config)
        context = serving(found, config, with_explainer=with_explainer)
        served = context.__enter__()
    try:
        show_release(served.attestation, config)
        show_addresses(served, Home(settings().home))
        say("Ctrl-C stops all of them.")
        with suppress(KeyboardInterrupt):
            signal.pause()
    finally:
        context.__exit__(None, None, None)


def show_release(said: Attestation, config: Settings) -> None:
    """Say what answers: on which verdict, under which profile, and which tiers stay closed."""
    against = f"compared with {said.champion[:12]}" if said.champion else "a first release"
    say(f"bundle     {said.bundle}, passed {said.created_at:%Y-%m-%d %H:%M} UTC, {against}")
    profile = contract_of(config).profiles.get(said.profile)
    if profile is not None and profile.says:
        say(f"profile    {said.profile}: {profile.says}", style="yellow", markup=False)
    for policy, tier in sorted(said.caps.items()):
        say(
            f"closed     {policy}: {tier} and stronger, not certified", style="yellow", markup=False
        )


def show_addresses(served: Served, home: Home) -> None:
    """Say where the processes listen and how to call them."""
    say(f"gateway    {served.gateway.http_url}/docs  (log {served.gateway.log})")
    say(f"predictor  {served.predictor.http_url}/v2  (log {served.predictor.log})")
    say(f"features   {served.features.http_url}/metrics  (log {served.features.log})")
    if served.explainer:
        say(f"explainer  {served.explainer.http_url}/v2  (log {served.explainer.log})")
    say(f"token      in {home.tokens}, sent as `Authorization: Bearer <token>`")
    say('try        tidegate decide --title "airsoft rifle, never fired"', markup=False)
