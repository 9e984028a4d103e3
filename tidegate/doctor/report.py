"""The doctor as a command: worlds, candidates, rates and mutations, one table each, and one verdict."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from components.contract import read_contract
from moderation.gates.evidence import Evidence
from moderation.release import ReleaseContract
from moderation.settings import settings
from pipelines.parameters import code_digest
from tidegate.console import say
from tidegate.doctor.candidates import CANDIDATES, IN_EVERY_WORLD
from tidegate.doctor.judging import evidence_folder, prove_all
from tidegate.doctor.mutation import summary, survey, survivors
from tidegate.doctor.rates import Rate, Rates, measure_rates
from tidegate.doctor.table import Line, as_markdown, as_matrix, expected_lines, unpaired
from tidegate.doctor.workshop import WORLD_SEED, Workshop
from tidegate.doctor.world import policy_text

ROOT: Final = Path("build/doctor")
DEFAULT_WORLDS: Final = 12
_NUM_STEPS: Final = 10


@dataclass
class Report:
    """What the doctor found; empty `wrong` means that every gate fires and none fires wrongly."""

    parts: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, title: str, text: str, wrong: Iterable[str]) -> None:
        """Take one part, and show it."""
        self.parts.append(f"## {title}\n\n{text}\n")
        say(f"\n{title}\n{text}", markup=False)
        for one in wrong:
            self.wrong.append(one)
            say(f"WRONG: {one}", markup=False)


def run(*, worlds: int, seeds: int = 1, root: Path = ROOT) -> int:
    """Show the whole self-test; return the exit status: 1 where a gate does not do what it must.

    Args:
        worlds: drawn worlds that the rates are taken over; 0 leaves them out.
        seeds: worlds that are trained in; in those after the first only a few candidates are proved.
        root: folder of everything that is kept.
    """
    contract_text = settings().release_file.read_text(encoding="utf-8")
    contract, report = read_contract(contract_text), Report()
    policies = policy_text(settings().policy_file)
    shop = Workshop(root / _digest(policies, contract), contract_text, policies)
    shop.folder.mkdir(parents=True, exist_ok=True)
    got = prove_all(shop, progress=_proved)
    lines = expected_lines(contract, got)
    table = f"{as_markdown(lines)}\n\n{as_matrix(got, contract)}"
    wrong = [*unpaired(lines, contract), *_wrong_lines(lines)]
    report.add("Every gate and its candidates", table, wrong)
    for seed in range(1, seeds):
        _further_world(shop, WORLD_SEED + seed, contract, report)
    mutants = survey(contract, partial(_evidence, shop), processes=2)
    survived = [f"{one.gate}: {one.change} was not noticed" for one in survivors(mutants)]
    report.add("Changes of the contract", summary(mutants), survived)
    if worlds:
        rates = measure_rates(contract, worlds, progress=_told)
        report.add(f"Rates over {worlds} drawn worlds", _rates_text(rates), _wrong_rates(rates))
    verdict = "every gate fires" if not report.wrong else f"{len(report.wrong)} wrong"
    say(f"\n{verdict}; written to {shop.folder / 'report.md'}")
    (shop.folder / "report.md").write_text(
        "# The gates' self-test\n\n" + "\n".join(report.parts), encoding="utf-8"
    )
    return 1 if report.wrong else 0


def _further_world(shop: Workshop, seed: int, contract: ReleaseContract, report: Report) -> None:
    """Prove a few candidates in another world, by the whole path."""
    other = replace(shop, folder=shop.folder / f"seed-{seed}", seed=seed)
    few = [one for one in CANDIDATES if one.name in IN_EVERY_WORLD]
    got = prove_all(other, few, progress=_proved)
    lines = expected_lines(contract, got, few)
    report.add(f"Another world, seed {seed}", as_matrix(got, contract), _wrong_lines(lines))


def _evidence(shop: Workshop, name: str) -> Evidence:
    candidate = next(one for one in CANDIDATES if one.name == name)
    return Evidence.load(evidence_folder(shop, candidate))


def _proved(name: str) -> None:
    say(f"  judged: {name}", markup=False)


def _wrong_lines(lines: Iterable[Line]) -> Iterator[str]:
    for line in lines:
        if not line.is_right:
            came = line.got.said if line.got else "not judged"
            wanted = "pass" if line.must_pass else "held"
            yield f"{line.gate} on {line.candidate}: {came}, expected {wanted}"


def _digest(policies: str, contract: ReleaseContract) -> str:
    """Return what makes a proof valid: the code, the policies, and what the contract says of drawing and slicing."""
    digest = hashlib.sha256(code_digest().encode())
    for part in (contract.golden, contract.slices, contract.suite):
        digest.update(part.model_dump_json().encode())
    digest.update(policies.encode())
    here = Path(__file__).parent
    for path in sorted([*here.glob("*.py"), here.parents[1] / "marketplace" / "evasion.py"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _told(done: int, total: int) -> None:
    if done * _NUM_STEPS // total > (done - 1) * _NUM_STEPS // total:
        say(f"  drawn worlds: {done} of {total}")


def _rates_text(rates: Rates) -> str:
    rows = ["| what | worlds | rate | 95 % interval |", "| --- | ---: | ---: | --- |"]
    rows += [_rate_row(rate) for rate in (rates.good_held, *rates.bad_passed)]
    held = ", ".join(f"{gate} {number}" for gate, number in rates.good_held_by.items()) or "none"
    capped = ", ".join(f"{gate} {number}" for gate, number in rates.good_capped_by.items())
    return "\n".join(
        [*rows, "", f"Good held back by: {held}. Tiers left closed by: {capped or 'none'}."]
    )


def _rate_row(rate: Rate) -> str:
    low, high = rate.interval
    return f"| {rate.what} | {rate.runs} | {rate.value:.1%} | {low:.1%} to {high:.1%} |"


def _wrong_rates(rates: Rates) -> Iterator[str]:
    for rate in (rates.good_held, *rates.bad_passed):
        if not rate.is_right:
            yield f"{rate.what}: {rate.hits} of {rate.runs}"
