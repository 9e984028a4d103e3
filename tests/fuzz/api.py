"""The gateway's whole HTTP API under schemathesis: a real server, a caller of every role, every check that it has."""

import asyncio
import json
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import uvicorn

from ledger.ledger import SqliteLedger
from moderation.clock import SystemClock
from moderation.listing import TruthSource
from moderation.policy import load_policies
from serving.gateway.app import create_app
from serving.gateway.auth import Callers
from serving.gateway.behaviour import BudgetedBehaviour
from serving.gateway.breaker import Breaker, Breakers
from serving.gateway.gate import UploadGate
from serving.gateway.intake import Intake
from serving.gateway.safeguards import Around, safeguards_of
from serving.routing import Route, Router, RoutingTable, write_table
from tests.folded_behaviour import FoldedBehaviour
from tests.kept import SERVING, a_keeper
from tests.unit.serving.conftest import BUDGETS, RULES, a_cascade
from tests.unit.serving.fakes import BUNDLE, TOKENS, FakePredictor, a_photo, as_text

ROLES: Final = {part.split(":")[1]: part.split(":")[2] for part in TOKENS.split(",")}
"""A token of each role."""

_AHEAD: Final = timedelta(minutes=4)
"""An instant that is after every submission of a run, and not yet refused as being in the future."""

POLICY_FILE: Final = Path("policies/marketplace.yaml")
_STARTING_S: Final = 20.0
_PATIENCE_S: Final = 5.0
"""Seconds that one answer may take on a busy machine."""


@contextmanager
def served() -> Iterator[str]:
    """Give the address of a gateway with a ledger and a predictor of its own, on a free port."""
    with tempfile.TemporaryDirectory(prefix="tidegate-fuzz-") as folder:
        server = _Server(Path(folder))
        server.start()
        try:
            yield server.url
        finally:
            server.stop()


class _Server:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._uvicorn: uvicorn.Server | None = None
        self.url = ""

    def start(self) -> None:
        self._thread.start()
        if not self._started.wait(_STARTING_S) or not self.url:
            raise RuntimeError("the gateway does not start; its reason stands above")

    def stop(self) -> None:
        if self._uvicorn:
            self._uvicorn.should_exit = True
        self._thread.join(_STARTING_S)

    async def _serve(self) -> None:
        predictor = FakePredictor()
        await predictor.start()
        try:
            app = create_app(_gate(self._folder, predictor.url), Callers(TOKENS))
            config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error")
            self._uvicorn = uvicorn.Server(config)
            serving = asyncio.create_task(self._uvicorn.serve())
            while not self._uvicorn.started and not serving.done():
                await asyncio.sleep(0.01)
            port = self._uvicorn.servers[0].sockets[0].getsockname()[1]
            self.url = f"http://127.0.0.1:{port}"
            self._started.set()
            await serving
        finally:
            self._started.set()
            await predictor.stop()


def _gate(folder: Path, predictor_url: str) -> UploadGate:
    releases = {BUNDLE: Route(url=predictor_url, weight=1.0)}
    write_table(
        folder / "routing.json", RoutingTable(revision=1, champion=BUNDLE, releases=releases)
    )
    ledger, clock = SqliteLedger(folder / "ledger.sqlite"), SystemClock()
    router, policies = Router(folder / "routing.json", clock), load_policies(POLICY_FILE)
    keeper = a_keeper(folder, ledger)
    around = Around(folder, ledger, router, policies, clock, "fuzzed", dict, keeper.spilled)
    return UploadGate(
        keeper=keeper,
        behaviour=BudgetedBehaviour(
            FoldedBehaviour(ledger), Breaker("features", RULES.features, clock)
        ),
        breakers=Breakers("predictor", RULES.predictor, clock),
        intake=Intake(SERVING.intake),
        router=router,
        cascade=a_cascade(folder, ledger, clock),
        policies=policies,
        clock=clock,
        budgets=BUDGETS,
        safeguards=safeguards_of(SERVING, around),
    )


def narrowed_schema(url: str) -> dict[str, Any]:
    """Return the served schema with what none can say: which texts are images, and which instants are in time."""
    schema: dict[str, Any] = httpx.get(f"{url}/openapi.json").json()
    bodies = {
        path: operations["post"]["requestBody"]["content"]["application/json"]["schema"]
        for path, operations in schema["paths"].items()
        if "post" in operations
    }
    photos = [as_text(a_photo(kind)) for kind in ("JPEG", "PNG", "WEBP", "GIF")]
    bodies["/v1/decisions"]["properties"]["images"]["items"]["enum"] = photos
    # Files of a form cannot be narrowed so; the target `form` reads those.
    form = schema["paths"]["/v1/decisions"]["post"]["requestBody"]["content"]["multipart/form-data"]
    del form["schema"]["properties"]["images"], form["encoding"]["images"]
    # Only what our audit drew may be said to come of one; next to no upload of a run was drawn.
    bodies["/v1/ground-truth"]["properties"]["source"]["enum"].remove(TruthSource.AUDIT.value)
    soon = (SystemClock().now() + _AHEAD).isoformat()
    for path, field in (("/v1/ground-truth", "reviewed_at"), ("/v1/reversals", "reversed_at")):
        bodies[path]["properties"][field] = {"enum": [None, soon]}
    return schema


def run_schemathesis(url: str, token: str, seed: int, *options: str) -> tuple[int, str]:
    """Return the exit status and what was said of one run over every operation with every check."""
    command = [
        *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run"),
        *("openapi.json", "--url", url),
        *("-H", f"Authorization: Bearer {token}"),
        *("--checks", "all", "--seed", str(seed), "--continue-on-failure", "--no-color"),
        *("--max-response-time", str(_PATIENCE_S), "--generation-database", "none"),
        *options,
    ]
    with tempfile.TemporaryDirectory(prefix="tidegate-fuzz-") as folder:
        Path(folder, "openapi.json").write_text(json.dumps(narrowed_schema(url)))
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    return done.returncode, done.stdout + done.stderr


def fuzz_api(seconds: float, seed: int) -> tuple[str, bool]:
    """Return what came of every role's run, `seconds` long altogether, and whether nothing broke."""
    lines, is_sound = ["| role | test cases | failures |", "|---|---|---|"], True
    each = max(1, round(seconds / len(ROLES)))
    with served() as url:
        for role, token in ROLES.items():
            status, said = run_schemathesis(url, token, seed, "--max-time", str(each))
            cases = re.search(r"(\d[\d,]*) generated", said)
            lines.append(
                f"| {role} | {cases[1] if cases else '?'} | {'no' if status == 0 else 'yes'} |"
            )
            if status != 0:
                is_sound = False
                lines.append(said)
    return "\n".join(lines), is_sound
