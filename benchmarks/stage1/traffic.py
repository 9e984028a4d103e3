"""How much of simulated traffic stage 1 decides alone: banks that fill as truth arrives, patterns, repeated uploads."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any, Final

from benchmarks.harness import Bench, Target
from marketplace.config import WorldConfig
from marketplace.world import World
from moderation.bank_versions import BankVersions
from moderation.banks import Banks
from moderation.clock import SimulatedClock
from moderation.image import decode_view, pdq
from moderation.listing import GroundTruth, Submission
from moderation.pattern_book import PatternBook
from moderation.pdq import MIN_QUALITY
from moderation.policy import PolicyFile, load_policies
from moderation.prefilter import Incoming, Prefilter, Stage
from moderation.release import load_release
from moderation.repeats import JudgedBy, Kept, Repeats, repeat_key
from moderation.serving_rules import Stage1Rules
from moderation.settings import settings
from moderation.stage_1 import Stage1
from moderation.stages import BankStage, PatternStage
from tests.bank_world import entries_file, entry

RECALL: Final = 0.99
_ANSWERS: Final = JudgedBy("a release", {}, "the patterns", "the banks")


@dataclass
class _Tally:
    """Submissions by what became of them, counted and weighted to all traffic."""

    count: Counter[str] = field(default_factory=Counter)
    weight: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, what: str, submission: Submission) -> None:
        self.count[what] += 1
        self.weight[what] += 1 / submission.inclusion_probability


def add_share(bench: Bench, folder: Path, *, factor: float, days: int) -> None:
    """Run `days` of a world through stage 1; the banks hold the photos of violations that became known before the day.

    The first third of the days fills the banks and is not counted.
    """
    config = WorldConfig.default().scaled(factor)
    world, clock = World(config), SimulatedClock(datetime.combine(config.start, time(), UTC))
    policies, rules = load_policies(settings().policy_file), load_release(settings().release_file)
    gate = _Gate(folder, clock, policies, rules.serving.stage_1)
    tally = _Tally()
    for number, today in enumerate(world.dates[:days]):
        decided: list[tuple[str, str]] = []
        for submission, images in world.day(today):
            clock.advance((submission.submitted_at - clock.now()).total_seconds())
            said = gate.look(submission, images)
            violates = world.oracle(submission.submission_id).violated is not None
            if number >= days // 3:
                _count(tally, submission, said, violates=violates)
            if isinstance(said, Stage1) and said.is_decisive:
                decided.append((submission.submission_id, said.tier))
        events = world.react(today, decided)
        gate.learn([one for one in events if isinstance(one, GroundTruth) and one.violates])
    _report(bench, tally)


class _Gate:
    """Stage 1 without a gateway around it."""

    def __init__(
        self, folder: Path, clock: SimulatedClock, policies: PolicyFile, rules: Stage1Rules
    ) -> None:
        folder.mkdir()
        self._folder, self._policies = folder, policies
        self._versions = BankVersions(folder / "banks", clock)
        self._banks = Banks(self._versions, clock)
        book = PatternBook(Path("policies/patterns.yaml"), policies.ids, clock)
        book.refresh()
        stages: list[Stage] = [
            PatternStage(book),
            BankStage(self._banks, rules.banks, policies.ids),
        ]
        self._prefilter = Prefilter(stages, clock)
        self._repeats = Repeats(rules.duplicates, clock)
        self._seen: dict[str, list[Any]] = {}
        self._rows: dict[str, dict[str, Any]] = {}

    def look(self, submission: Submission, images: list[bytes]) -> Stage1 | Kept:
        key = repeat_key(submission, _ANSWERS, self._policies, submission.submitted_at)
        kept = self._repeats.take(key, submission.submission_id) if key else None
        views = tuple(decode_view(data) for data in images)
        self._seen[submission.submission_id] = [pdq(view) for view in views]
        if kept is not None:
            return kept
        listing = submission.listing
        upload = Incoming(submission.submission_id, listing.title, listing.description, views)
        said = self._prefilter.look(upload).concluded(self._policies)
        if key and not said.is_decisive:
            self._repeats.keep(key, Kept(submission.submission_id, submission.submission_id))
        return said

    def learn(self, known: list[GroundTruth]) -> None:
        """Bank the photos of violations that became known, as an analyst would."""
        for truth in known:
            for place, (words, quality) in enumerate(self._seen[truth.submission_id]):
                name = f"{truth.submission_id}-{place}"
                if quality >= MIN_QUALITY:
                    self._rows[name] = entry(
                        name, words, policy=truth.policy, bank=truth.policy, quality=quality
                    )
        if known and self._rows:
            path = entries_file(self._folder / "entries.jsonl", list(self._rows.values()))
            self._versions.activate(self._versions.build(path, self._policies.ids))
            self._banks.refresh()


def _count(tally: _Tally, submission: Submission, said: Stage1 | Kept, *, violates: bool) -> None:
    tally.add("all", submission)
    kind = "violating" if violates else "innocent"
    tally.add(kind, submission)
    if isinstance(said, Kept):
        tally.add(f"{kind}: repeated", submission)
    elif said.is_decisive:
        tally.add(f"{kind}: {'let go' if said.tier == 'allow' else 'known image'}", submission)
    elif said.tier != "allow":
        tally.add(f"{kind}: raised by a pattern, the model is asked", submission)


def _report(bench: Bench, tally: _Tally) -> None:
    for what in sorted(tally.count):
        share = tally.weight[what] / tally.weight["all"]
        bench.rows.append({"traffic": what, "listings": tally.count[what], "of all traffic": share})
    bench.notes.append(
        "the simulated world hardly shows a photo or an upload twice, and its behaviour prefilter is closed: "
        "what stage 1 decides of a marketplace's traffic is not shown by it"
    )
    kept = 1 - tally.count["violating: let go"] / max(1, tally.count["violating"])
    name = "stage 1: violations that it does not let go"
    bench.targets.append(Target(name, f">= {RECALL}", kept, kept >= RECALL))
