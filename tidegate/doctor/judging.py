"""Every candidate proved once and judged, by the pipeline's own steps, two at a time."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import yaml

from components.judge import step as judge_step
from components.judge.outcome import Outcome
from components.prove.lineage import record_cut_off
from moderation.pack import load_record
from moderation.release import STANDARD, parse_release
from moderation.snapshot import Snapshot
from tidegate.doctor.candidates import CANDIDATES, GOOD, Candidate, Entry
from tidegate.doctor.making import SEED
from tidegate.doctor.rates import mapper
from tidegate.doctor.table import Cell, expects
from tidegate.doctor.workshop import Workshop

Progress = Callable[[str], None]


def prove_all(
    shop: Workshop,
    candidates: Sequence[Candidate] = CANDIDATES,
    *,
    processes: int = 2,
    progress: Progress = lambda name: None,
) -> dict[str, dict[str, Cell]]:
    """Return what every gate said of every candidate.

    The good one goes first and alone: it fills the cache of embeddings that all others read. A latency that a busy
    machine left unshown is taken once more, with nothing of ours beside it.
    """
    shop.world()
    record_cut_off(shop.home, shop.champion(), Snapshot.open(shop.early.table))
    got = {}
    first = [one for one in candidates if one.name == GOOD]
    for candidate in first:
        got[candidate.name] = prove_and_judge(shop, candidate)
        progress(candidate.name)
    record_cut_off(shop.home, shop.good(), Snapshot.open(shop.late.table))
    names = [one.name for one in candidates if one not in first and one.proved_as is None]
    with mapper(processes) as each:
        for name, cells in zip(names, each(partial(_by_name, shop), names), strict=True):
            got[name] = cells
            progress(name)
    for candidate in candidates:
        if candidate.proved_as is None and untimed(candidate, got[candidate.name], shop.contract):
            shop.forget(candidate.name)
            got[candidate.name] = prove_and_judge(shop, candidate)
            progress(f"{candidate.name}, timed again")
    for candidate in candidates:
        if candidate.proved_as is not None:
            got[candidate.name] = prove_and_judge(shop, candidate)
    return got


def untimed(candidate: Candidate, cells: Mapping[str, Cell], contract: str) -> list[str]:
    """Return the gates on latency that could not tell, where they had to pass; what is shown slow stays so."""
    release = parse_release(contract.encode(), "the doctor's contract")
    return [
        gate.id
        for gate in release.gates
        if gate.set == "costs"
        and expects(candidate, gate, release) is True
        and cells[gate.id].state == "not_certified"
    ]


def _by_name(shop: Workshop, name: str) -> dict[str, Cell]:
    import torch  # takes seconds; the proof needs it anyway

    torch.set_num_threads(1)  # processes share the cores
    candidate = next(one for one in CANDIDATES if one.name == name)
    return prove_and_judge(shop, candidate)


def prove_and_judge(shop: Workshop, candidate: Candidate) -> dict[str, Cell]:
    """Return what every gate said of one candidate; evidence that is there is judged without scoring."""
    folder = shop.candidate_folder(candidate.name)
    evidence = evidence_folder(shop, candidate)
    entry = candidate.enter(shop, evidence.parent.name)
    with shop.once(f"proof-{evidence.parent.name}") as is_new:
        if is_new:
            shop.proof(entry.release, entry.champion, entry.table, entry.home, evidence)
    contract = contract_for(candidate, shop.contract)
    digest = parse_release(contract.encode(), "the doctor's contract").digest
    with shop.once(f"judged-{folder.name}-{digest[:16]}") as is_new:
        if is_new:
            _judge(entry, evidence, folder, contract)
    return _cells(folder, Outcome.load(str(folder / "outcome.json")))


def contract_for(candidate: Candidate, text: str) -> str:
    """Return the contract's text with the candidate's objective."""
    if candidate.objective is None:
        return text
    content = yaml.safe_load(text)
    content["promotion"]["objective"] = candidate.objective
    for profile in content["profiles"].values():
        if "report_all_but" in profile:  # no profile may let the objective off
            profile["report_all_but"] = [*profile["report_all_but"], candidate.objective]
    return yaml.safe_dump(content, sort_keys=False)


def evidence_folder(shop: Workshop, candidate: Candidate) -> Path:
    """Return where the evidence about a candidate lies."""
    return shop.candidate_folder(candidate.proved_as or candidate.name) / "evidence"


def _judge(entry: Entry, evidence: Path, folder: Path, contract: str) -> None:
    inputs = judge_step.JudgeInputs(str(evidence), str(entry.release), str(entry.home.folder))
    outcome = judge_step.run(inputs, contract, STANDARD, SEED, pack=str(folder / "pack"))
    outcome.save(str(folder / "outcome.json"))


def _cells(folder: Path, outcome: Outcome) -> dict[str, Cell]:
    record = load_record(folder / "pack" / "judgement.json")
    assert record.state == outcome.state, "the pack and the attestation say the same"
    return {
        one.gate.id: Cell(
            one.state,
            one.blocks,
            one.blocks or (one.state != "pass" and one.gate.uncertified == "cap"),
            one.reason,
        )
        for one in record.gates
    }
