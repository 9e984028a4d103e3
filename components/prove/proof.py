"""One proof in the making: each part of the evidence is taken by itself, and says why where it cannot be."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Final, TypeVar

from components.home import Home
from components.image_copies import image_copies
from components.progress import show_progress
from components.prove.attacked import attack_outcomes, attacked_listings, choose, subjects_of
from components.prove.costs import take_costs
from components.prove.frozen import FrozenRows
from components.prove.heads import require_heads, retired
from components.prove.lineage import cut_off_of, record_cut_off
from components.prove.opponents import Opponents
from components.prove.replayed import (
    OnlyOwnDecisions,
    Recorded,
    Window,
    recorded_rows,
    replayed_set,
)
from components.prove.sets import fresh_rows, golden_rows, traffic_rows
from components.prove.shared import Shared
from ledger.events import EventKind
from ledger.ledger import SqliteLedger
from ledger.store import ContentStore
from moderation.attacks import hard_examples
from moderation.bundle import Bundle
from moderation.clock import Clock, SystemClock
from moderation.embedding_cache import EmbeddingCache
from moderation.errors import InvalidSnapshot, PermanentError
from moderation.gates import measures
from moderation.gates.evidence import AttackOutcome, Costs, Evidence, ScoredSet
from moderation.gates.judging import judge
from moderation.gates.leaked import SNAPSHOT_FACT
from moderation.gates.withstanding import hard_examples as turned_by_attacks
from moderation.golden_set import GoldenSet, latest_golden, record_look
from moderation.leaks import LeakCheck, find_leaks
from moderation.policy import PolicyFile
from moderation.release import STANDARD, ReleaseContract, Suite
from moderation.rescoring import answering
from moderation.scoring import Scorer
from moderation.settings import settings
from moderation.snapshot import Snapshot

assert measures.__all__, "importing them makes the contract's measures known"

_NO_GOLDEN: Final = "no golden set was built in this home; build one with `tidegate golden build`"
_LOOKED_BY: Final = "prove"

Part = TypeVar("Part")

# Progress lines of one part: enough to see that it moves, few enough to read.
_LINES: Final = 10


@dataclass(frozen=True)
class ProveInputs:
    """Where the inputs of a proof lie."""

    release: str
    """Folder of the candidate."""

    champion: str
    """Folder of the champion; empty for a first release."""

    table: str
    """Folder of the snapshot that the candidate was trained on."""

    home: str
    profile: str = STANDARD
    """Of the contract: says how many listings are attacked."""


@dataclass
class Proof:
    """What was taken so far, and what could not be."""

    home: Home
    snapshot: Snapshot
    opponents: Opponents
    contract: ReleaseContract
    policies: PolicyFile
    suite: Suite
    seed: int
    clock: Clock
    shared: Shared = field(default_factory=Shared)
    sets: dict[str, ScoredSet] = field(default_factory=dict)
    attacks: list[AttackOutcome] = field(default_factory=list)
    leaks: LeakCheck | None = None
    costs: Costs | None = None
    missing: dict[str, str] = field(default_factory=dict)
    nothing_decided: bool = False
    only_own_decisions: bool = False
    facts: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    _golden: tuple[GoldenSet, FrozenRows] | None = None

    @classmethod
    def open(
        cls,
        inputs: ProveInputs,
        contract: ReleaseContract,
        policies: PolicyFile,
        seed: int,
        clock: Clock | None = None,
        shared: Shared | None = None,
    ) -> "Proof":
        """Return a proof with nothing taken yet, both bundles verified and loaded.

        Args:
            inputs: folders.
            contract: says how much is taken.
            policies: in force.
            seed: draws the listings that are attacked.
            clock: dates the look at the golden set.
            shared: of proofs before this one; None: there were none.

        Raises:
            PermanentError: if the candidate lacks the head of a policy, or is the champion itself.
        """
        home, snapshot = Home(Path(inputs.home)), Snapshot.open(Path(inputs.table))
        candidate = Bundle.open(Path(inputs.release))
        champion = Bundle.open(Path(inputs.champion)) if inputs.champion else None
        if champion is not None and champion.digest == candidate.digest:
            raise PermanentError(
                f"bundle {candidate.digest[:12]} is the champion: compared with itself it proves nothing"
            )
        require_heads(candidate.digest, candidate.manifest.policies, policies.ids)
        record_cut_off(home, candidate, snapshot)
        shared = shared or Shared()
        opponents = Opponents(
            Scorer(candidate),
            None if champion is None else Scorer(champion),
            EmbeddingCache(home.embeddings),
            settings().num_threads,
            readings=shared.readings,
        )
        suite = contract.profile(inputs.profile).suite or contract.suite
        clock = clock or SystemClock()
        proof = cls(home, snapshot, opponents, contract, policies, suite, seed, clock, shared)
        proof.facts[SNAPSHOT_FACT] = candidate.manifest.inputs.snapshot
        proof.facts["candidate saw truth until"] = f"{snapshot.cut_off:%Y-%m-%d %H:%M} UTC"
        prefilter = opponents.candidate.prefilter
        proof.facts["behaviour prefilter"] = str(prefilter.evidence) if prefilter else "none"
        if opponents.champion is not None:
            proof.missing |= retired(opponents.policies, opponents.champion.policies)
        return proof

    def take_golden(self) -> None:
        """Score the golden set; the look is logged before it is taken."""
        with self._part("golden"):
            golden = latest_golden(self.home.golden)
            if golden is None:
                raise InvalidSnapshot(_NO_GOLDEN)
            most = self.contract.golden.max_looks
            looks = record_look(
                golden,
                bundle=self.opponents.candidate.digest,
                seed=self.seed,
                by=_LOOKED_BY,
                at=self.clock.now(),
                max_looks=most,
            )
            self.facts["golden set"] = f"version {golden.version}, {golden.digest[:12]}"
            self.facts["looks at it"] = f"{looks} of {most}"
            rows = self._once(
                "golden",
                (golden.version, golden.digest),
                lambda: golden_rows(golden, self.opponents.policies, self._read_blob),
            )
            self._answer(rows)
            self._golden = (golden, rows)

    def take_traffic(self) -> None:
        """Score the test rows of the candidate's snapshot."""
        with self._part("traffic"):
            self._answer(self._traffic_rows)

    def take_fresh(self) -> None:
        """Score what neither bundle's training could see."""
        with self._part("fresh"):
            after = self.snapshot.cut_off
            if self.opponents.champion is not None:
                theirs = cut_off_of(self.home, self.opponents.champion.bundle)
                self.facts["champion saw truth until"] = f"{theirs:%Y-%m-%d %H:%M} UTC"
                after = max(after, theirs)
            golden = None if self._golden is None else self._golden[0]
            key = (self._heard, after, self._snapshot_key, golden and golden.digest)
            self._answer(self._once("fresh", key, lambda: self._fresh_rows(after, golden)))

    def take_replay(self) -> None:
        """Decide recorded traffic again."""
        with self._part("replay"):
            if not self.home.ledger.is_file():
                raise InvalidSnapshot(
                    f"{self.home.ledger.name} is not there: no decision was recorded in this home"
                )
            ledger, own = SqliteLedger(self.home.ledger), self.opponents.candidate.digest
            self.nothing_decided = not ledger.last_sequence((EventKind.DECISION,))
            recorded = self._recorded(ledger)
            if recorded.answers.bundle == own:
                try:
                    recorded = self._recorded(ledger, besides=own)
                except OnlyOwnDecisions:
                    self.only_own_decisions = True
                    raise
            self.facts |= recorded.facts
            self.sets["replay"] = replayed_set(
                recorded,
                self.opponents.candidate,
                self.opponents.cache,
                self.policies,
                self.contract.slices,
                num_threads=self.opponents.num_threads,
                readings=self.opponents.readings,
                progress=self._told("replay"),
            )

    def take_attacks(self) -> None:
        """Score golden listings under every attack, then under the candidate's own gradients."""
        with self._part("attacks"):
            golden, rows = self._need_golden()
            said = self.suite.model_dump_json()
            listings = self._once(
                "attacks",
                (golden.version, golden.digest, said, self.seed, tuple(self._words)),
                lambda: attacked_listings(rows, choose(rows, self.suite, self.seed), self._words),
            )
            self.attacks += attack_outcomes(listings, self.opponents, self._told("attacks"))
        with self._part("white_box"):
            golden, rows = self._need_golden()
            from components.prove.white_boxed import white_box_outcomes  # torch takes seconds

            with answering("the candidate under its own gradients"):
                self.attacks += white_box_outcomes(
                    rows,
                    self.sets["golden"].candidate.probability_NP,
                    self.opponents.candidate,
                    self.suite,
                    self._told("white-box attacks"),
                )

    def take_leaks(self) -> None:
        """Look for golden listings among the rows that the candidate was fitted on."""
        with self._part("leaks"):
            golden, _ = self._need_golden()
            self.leaks = self._once(
                "leaks",
                (self._snapshot_key, golden.version, golden.digest),
                lambda: find_leaks(self.snapshot, golden.table, image_copies(self.home)),
            )

    def take_costs(self) -> None:
        """Measure latency and size."""
        with self._part("costs"):
            if "traffic" not in self.sets:
                raise InvalidSnapshot("traffic was not taken, whose listings would be timed")
            with answering("a bundle that is timed"):
                self.costs = take_costs(
                    self._traffic_rows.items,
                    self.opponents.candidate,
                    self.opponents.champion,
                    SystemClock(),  # a simulated world is not answered in simulated time
                    self.seed,
                    num_listings=self.contract.samples.timed_listings,
                    is_enough=self._passes_costs,
                )

    def _passes_costs(self, costs: Costs) -> bool:
        """Return whether every gate on costs passes."""
        gates = tuple(gate for gate in self.contract.gates if gate.set == "costs")
        contract = self.contract.model_copy(update={"gates": gates})
        judgement = judge(replace(self.evidence(), costs=costs), contract, seed=self.seed)
        return all(result.state == "pass" for result in judgement.results)

    def evidence(self) -> Evidence:
        """Return what was taken."""
        champion = self.opponents.champion
        self.facts["seed"] = str(self.seed)
        self.facts["contract"] = f"{self.contract.version}, {self.contract.digest[:12]}"
        return Evidence(
            candidate=self.opponents.candidate.digest,
            champion=None if champion is None else champion.digest,
            policies=self.opponents.policies,
            sets=self.sets,
            attacks=tuple(self.attacks),
            leaks=self.leaks,
            costs=self.costs,
            facts=self.facts,
            missing=self.missing | self.opponents.missing,
            nothing_decided=self.nothing_decided,
            only_own_decisions=self.only_own_decisions,
        )

    def export_hard_examples(self, evidence: Evidence) -> Path | None:
        """Write what the candidate gets wrong only under attack; None where that was not looked for."""
        if self._golden is None or "attacks" in evidence.missing:
            return None
        return hard_examples.export(
            turned_by_attacks(evidence),
            self.home.hard_examples,
            bundle=evidence.candidate,
            subject_of=subjects_of(self._golden[1], self._words),
        )

    def counts(self, evidence: Evidence) -> dict[str, float]:
        """Return rows per set, attacks, missing parts, embeddings and seconds by part."""
        counts = {f"{name}_rows": float(one.num_rows) for name, one in evidence.sets.items()}
        counts |= {f"{name}_seconds": spent for name, spent in self.seconds.items()}
        return counts | {
            "attacks": float(len(evidence.attacks)),
            "missing": float(len(evidence.missing)),
            "embeddings_read": float(self.opponents.cache.hits),
            "embeddings_computed": float(self.opponents.cache.misses),
        }

    @cached_property
    def _words(self) -> list[str]:
        """Telling words of all policies."""
        return [word for policy in self.policies.policies for word in policy.keywords]

    @cached_property
    def _read_blob(self) -> Callable[[str], bytes]:
        return ContentStore(self.home.content).get

    @cached_property
    def _traffic_rows(self) -> FrozenRows:
        return self._once(
            "traffic",
            self._snapshot_key,
            lambda: traffic_rows(self.snapshot, self.opponents.policies, self._read_blob),
        )

    def _fresh_rows(self, after: datetime, golden: GoldenSet | None) -> FrozenRows:
        known = set(self.snapshot.column("submission_id").tolist())
        if golden is not None:
            known.update(golden.table.column("submission_id").tolist())
        return fresh_rows(
            self.home, after, self.opponents.policies, self._read_blob, known=frozenset(known)
        )

    def _recorded(self, ledger: SqliteLedger, *, besides: str | None = None) -> Recorded:
        samples, store = self.contract.samples, ContentStore(self.home.content)
        window = Window(samples.replay_days, samples.replay_decisions)
        return self._once(
            "replay",
            (self._heard, window, self.seed, besides),
            lambda: recorded_rows(
                ledger, store, self.opponents.policies, window, self.seed, besides=besides
            ),
        )

    @property
    def _snapshot_key(self) -> Hashable:
        return str(self.snapshot.folder.resolve()), self.snapshot.digest

    @property
    def _heard(self) -> int:
        """Of how many events the ledger has; of one that is not there, none: looking would make it."""
        there = self.home.ledger.is_file()
        return SqliteLedger(self.home.ledger).last_sequence() if there else 0

    def _once(self, name: str, key: Hashable, make: Callable[[], Part]) -> Part:
        """Return what depends on the home, the policies and `key` alone, as proofs of other candidates have it."""
        place = str(self.home.folder.resolve())
        return self.shared.once((name, place, self.opponents.policies, key), make)

    def _answer(self, rows: FrozenRows) -> None:
        self.sets[rows.name] = self.opponents.answer(
            rows, self.contract.slices, self._told(rows.name)
        )

    def _need_golden(self) -> tuple[GoldenSet, FrozenRows]:
        if self._golden is None:
            raise InvalidSnapshot("the golden set was not taken, see there")
        return self._golden

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        """Take one part; what keeps it from being taken is recorded, what may work later is raised."""
        clock = SystemClock()
        begin = clock.monotonic()
        try:
            yield
        except PermanentError as error:
            self.missing[name] = str(error)
            show_progress(0, 1, f"{name} is missing: {error}".splitlines()[0])
        self.seconds[name] = clock.monotonic() - begin

    def _told(self, note: str) -> Callable[[int, int], None]:
        shown = 0

        def report(done: int, total: int) -> None:
            nonlocal shown
            if done * _LINES // max(total, 1) > shown:
                shown = done * _LINES // total
                show_progress(done, total, note)

        return report
