"""Engines as commands: derive int8 graphs, compare an engine with the reference and attest it, export to Triton."""

from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final, get_args

import numpy as np
from rich.table import Table

from components.home import Home
from components.prove.frozen import Record, freeze, records_of
from ledger.store import ContentMissing, ContentStore
from moderation import attestation
from moderation.attestation import Attestation
from moderation.bundle import Bundle
from moderation.clock import Clock, SystemClock
from moderation.derived_graphs import derive, derived_folder
from moderation.engines.engine import QUANTISED, REFERENCE, engine_named
from moderation.errors import InvalidSnapshot, PolicyError, SettingsError
from moderation.gates.evidence import digest_rows
from moderation.gates.parity import ParityRows, compare, judge_parity, parity_statement
from moderation.release import ReleaseContract
from moderation.serving_rules import EngineRules, ParityRules
from moderation.settings import settings
from moderation.snapshot import Snapshot
from serving.engines import EngineChoice, facts_of, scorer_with
from serving.triton_repository import Kind, export_repository
from tidegate.console import console, say
from tidegate.gates import table_of
from tidegate.releasing import contract_of, named_bundle, registry_of

_ROLES: Final = ("meta", "solve", "test")
"""Rows that no member was fitted on."""

_COLOURS: Final = {"pass": "green", "fail": "bold red", "not_certified": "yellow", "no_data": "red"}


def quantise_bundle(bundle: str, engine: str) -> None:
    """Derive the int8 graphs of a bundle.

    Raises:
        SettingsError: if the engine runs the bundle's own graphs.
        PermanentError: if the bundle's folder cannot be written.
    """
    from moderation.engines.quantise import quantise  # onnx belongs to the extra `train`

    name = engine_named(engine)
    if name not in QUANTISED:
        raise SettingsError(
            f"engine {name} runs the bundle's own graphs; int8 are {', '.join(sorted(QUANTISED))}"
        )
    found = named_bundle(bundle, settings())
    for tower, count in derive(found, name, quantise).items():
        kept = "" if count else ": it has convolutions only, and stays fp32"
        say(f"{tower:12} {count} weights are int8{kept}")
    say(f"written to {derived_folder(found, name)}")
    say(f"next     tidegate bundle parity {found.folder} --engine {name}")


def compare_engine(bundle: str, engine: str, *, table: Path | None, seed: int) -> int:
    """Compare an engine with the reference on a bundle's real rows and attest it; return the exit code.

    Raises:
        PermanentError: if the engine cannot run here, or there are no rows to compare on.
    """
    config = settings()
    found, contract = named_bundle(bundle, config), contract_of(config)
    choice = EngineChoice(
        engine_named(engine),
        triton_url=config.triton_url,
        timeout_s=config.triton_timeout_ms / 1_000,
    )
    if choice.name == REFERENCE:
        raise SettingsError(f"{REFERENCE} is what engines are compared with; name another one")
    snapshot = Snapshot.open(table or table_of(found, registry_of(config)))
    rows = parity_rows(
        snapshot,
        found,
        ContentStore(Home(config.home).content).get,
        engine_rules(contract).parity,
        seed,
    )
    said = attest_engine(found, choice, rows, contract, seed=seed)
    show_parity(said)
    return 0 if said.is_passing else 1


def attest_engine(
    bundle: Bundle,
    choice: EngineChoice,
    rows: ParityRows,
    contract: ReleaseContract,
    *,
    seed: int,
    clock: Clock | None = None,
) -> Attestation:
    """Return what is now attested about an engine with a bundle, good or bad.

    Raises:
        PermanentError: if the engine cannot run here.
    """
    facts, num_threads = facts_of(bundle, choice), settings().num_threads
    compared = compare(
        scorer_with(bundle, EngineChoice(), num_threads=num_threads),
        scorer_with(bundle, choice, num_threads=num_threads),
        rows,
    )
    verdicts, figures = judge_parity(
        compared,
        rows,
        engine_rules(contract).parity,
        resamples=contract.risk.resamples,
        seed=seed,
    )
    return attestation.append(
        bundle,
        parity_statement(facts, rows, contract.digest, verdicts, figures),
        clock=clock or SystemClock(),
        tool=f"tidegate {version('tidegate')}",
    )


def parity_rows(
    snapshot: Snapshot,
    bundle: Bundle,
    read_blob: Callable[[str], bytes],
    rules: ParityRules,
    seed: int,
) -> ParityRows:
    """Return rows of the bundle's snapshot that its members were not fitted on, at most as many as the contract takes.

    Rows whose images were erased are left out.

    Raises:
        InvalidSnapshot: if it is another snapshot than the bundle's, or has no such row.
    """
    if snapshot.digest != bundle.manifest.inputs.snapshot:
        raise InvalidSnapshot(
            f"{snapshot.digest[:12]} is not the snapshot that bundle {bundle.digest[:12]} was trained on; "
            f"name the folder of {bundle.manifest.inputs.snapshot[:12]} with --table"
        )
    records = list(_readable(snapshot, read_blob))
    if len(records) > rules.max_rows:
        drawn = np.random.default_rng(seed).choice(len(records), rules.max_rows, replace=False)
        records = [records[row] for row in sorted(drawn)]
    rows = freeze("parity", records, snapshot.policy_ids, bundle.manifest.policies, read_blob)
    weight_N = rows.column("weight", np.float64)
    return ParityRows(
        items=rows.items,
        truth_NP=rows.truth_NP,
        weight_N=weight_N,
        group_N=rows.column("group", np.int64),
        digest=digest_rows(rows.words("submission_id"), rows.truth_NP, weight_N),
    )


def engine_rules(contract: ReleaseContract) -> EngineRules:
    """Return what the contract says of engines.

    Raises:
        PolicyError: if it says nothing: then the reference alone may answer.
    """
    if contract.serving.engines is None:
        raise PolicyError(
            f"the release contract has no section serving.engines: {REFERENCE} alone may answer; add it with its limits"
        )
    return contract.serving.engines


def show_parity(said: Attestation) -> None:
    """Print what was found about an engine."""
    assert said.engine is not None
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("check", no_wrap=True)
    for column in ("verdict", "reason"):
        table.add_column(column, overflow="fold")
    for verdict in said.verdicts:
        state = f"[{_COLOURS.get(verdict.verdict, 'white')}]{verdict.verdict.replace('_', ' ')}[/]"
        table.add_row(verdict.gate, state, verdict.reason)
    console.print(table)
    say(f"engine   {said.engine.name}, {said.engine.library}, {said.engine.machine}", markup=False)
    if said.is_passing:
        say(f"verdict  [bold green]may answer[/] with TIDEGATE__ENGINE={said.engine.name}")
    else:
        say(f"verdict  [bold red]refused[/]; serve with {REFERENCE}")


def export_towers(bundle: str, out: Path, kind: str) -> None:
    """Write a bundle's towers as a model repository of Triton.

    Raises:
        SettingsError: for an unknown kind.
        PermanentError: if the folder cannot be written.
    """
    kinds: tuple[Kind, ...] = get_args(Kind)
    wanted = next((known for known in kinds if known == kind), None)
    if wanted is None:
        raise SettingsError(f"no such kind: {kind!r}; known are {', '.join(kinds)}")
    config = settings()
    found = named_bundle(bundle, config)
    rules = engine_rules(contract_of(config)).triton
    for name in export_repository(found, out, rules, kind=wanted):
        say(f"model    {out / name}")
    say(
        f"next     tritonserver --model-repository={out}, then TIDEGATE__TRITON_URL=grpc://host:8001"
    )


def _readable(snapshot: Snapshot, read_blob: Callable[[str], bytes]) -> Iterator[Record]:
    for role in _ROLES:
        for record in records_of(snapshot, role):
            try:
                for digest in record["image_digests"] or ():
                    read_blob(digest)
            except ContentMissing:
                continue
            yield record
