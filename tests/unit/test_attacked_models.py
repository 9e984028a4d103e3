"""Gates on attacks by the real path: listings are attacked, real models answer, the shipped contract judges."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest

from moderation.attacks.registry import ATTACKS, GATE, Subject, apply, attack
from moderation.bundle import Bundle
from moderation.gates import attacked, measures
from moderation.gates.evidence import Answers, AttackOutcome, Evidence, ScoredSet, digest_rows
from moderation.gates.judging import GateResult, judge
from moderation.image import decode
from moderation.ngram import fit_ngram
from moderation.scoring import Scorer, ScoringItem
from moderation.text import SIGNS, NgramText, ngram_texts
from tests.gate_world import contract_of
from tests.toy import POLICIES, toy_world

assert measures.__all__
assert attacked.WHITE_BOX

RECALL, INNOCENCE = "attacks-worst-recall", "attacks-worst-false-positives"
TRIED = ("homoglyph", "zero_width", "separators", "benign_padding")
"""What a model of words alone can be asked to withstand."""

_BENIGN = (
    "garden chair lamp blue old table nice bike kids book phone case shoes red shelf basket".split()
)
_TELLING = "pistol ammo barrel silencer revolver shotgun".split()

Floats = npt.NDArray[np.float64]
Read = Callable[[str, str], NgramText]
Answer = Callable[[list[Subject]], Floats]


@dataclass(frozen=True)
class Shop:
    """Listings of one policy, with truth."""

    subjects: list[Subject]
    truth_N: npt.NDArray[np.int8]


def shop(num_rows: int, seed: int, *, hidden: str = "") -> Shop:
    """Return listings of which some sell weapons; `hidden` stands inside the words of those that do."""
    rng = np.random.default_rng(seed)
    truth_N = (rng.random(num_rows) < 0.4).astype(np.int8)
    subjects = []
    for violates in truth_N:
        words = list(map(str, rng.choice(_BENIGN, 8)))
        for word in rng.choice(_TELLING, 2) if violates else ():
            words.insert(int(rng.integers(0, len(words))), str(word))
        if violates and hidden:
            words = [word[:2] + hidden + word[2:] for word in words]
        subjects.append(Subject(" ".join(words[:4]), " ".join(words[4:]), words=tuple(_TELLING)))
    return Shop(subjects, truth_N)


def raw(title: str, description: str) -> NgramText:
    """Return a listing as a model reads it that nobody taught to look through disguises."""
    text = f"{title}\n{description}".lower()
    return NgramText(text, text, (0.0,) * len(SIGNS))


def ngram_of(trained: Shop, read: Read) -> Answer:
    """Return what a real n-gram model answers that was fitted on a shop."""
    texts = [read(one.title, one.description) for one in trained.subjects]
    model = fit_ngram(texts, trained.truth_N[:, None], np.ones(len(texts)), seed=1)

    def answer(subjects: list[Subject]) -> Floats:
        logits_NP = model.logits([read(one.title, one.description) for one in subjects])
        probability_NP: Floats = 1 / (1 + np.exp(-logits_NP))
        return probability_NP

    return answer


def evidence_on(found: Shop, answer: Answer, *, review: float = 0.5) -> Evidence:
    """Return evidence about a model under every attack that is tried."""
    before_NP, truth_NP = answer(found.subjects), found.truth_N[:, None]
    item_id, weight_N = np.array([f"s-{n}" for n in range(len(truth_NP))]), np.ones(len(truth_NP))
    log_odds_NP = np.log(before_NP / (1 - before_NP))
    golden = ScoredSet(
        name="golden",
        digest=digest_rows(item_id, truth_NP, weight_N),
        policies=("weapons",),
        item_id=item_id,
        seller_id=item_id,
        group=np.arange(len(truth_NP)),
        weight=weight_N,
        truth_NP=truth_NP,
        adjudicated_NP=truth_NP >= 0,
        num_images=np.zeros(len(truth_NP), np.int64),
        candidate=Answers("a" * 64, before_NP, log_odds_NP, {"weapons": {"review": review}}),
        champion=None,
    )
    outcomes = tuple(_outcome(name, found, answer) for name in TRIED)
    return Evidence("a" * 64, None, golden.policies, {"golden": golden}, outcomes)


def _outcome(name: str, found: Shop, answer: Answer) -> AttackOutcome:
    tried = [
        apply(name, one, severity=GATE, key=f"s-{n}".encode())
        for n, one in enumerate(found.subjects)
    ]
    rows = [n for n, one in enumerate(tried) if one is not None]
    after_RP = answer([one for one in tried if one is not None])
    return AttackOutcome(name, ATTACKS[name].family, GATE, np.array(rows), after_RP, None)


def judged(evidence: Evidence, gate: str, monkeypatch: pytest.MonkeyPatch) -> GateResult:
    """Return the verdict of one shipped gate, as if the attacks that were made were all there are."""
    made = {one.name: ATTACKS[one.name] for one in evidence.attacks}
    monkeypatch.setattr(attacked, "ATTACKS", made)
    results = judge(evidence, contract_of(gate), seed=3).results
    return next(result for result in results if result.gate.id == gate)


@pytest.fixture(scope="module")
def found() -> Shop:
    return shop(300, seed=1)


def test_model_that_reads_through_disguise_passes(
    found: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    evidence = evidence_on(found, ngram_of(shop(500, seed=0), ngram_texts))
    for gate in (RECALL, INNOCENCE):
        result = judged(evidence, gate, monkeypatch)
        assert result.state == "pass", result.reason
        assert not result.blocks


def test_model_is_blocked_when_homoglyphs_fool_it(
    found: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    evidence = evidence_on(found, ngram_of(shop(500, seed=0), raw))
    result = judged(evidence, RECALL, monkeypatch)
    assert result.state == "fail"
    assert result.blocks
    assert "homoglyph" in result.reason
    assert "zero_width" not in result.reason


def test_model_is_blocked_when_it_flags_hidden_characters(
    found: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = ngram_of(shop(500, seed=0, hidden="\u200b"), ngram_texts)
    disguised = [replace(one, title=one.title.replace(" ", "x\u200bx ")) for one in found.subjects]
    caught_N = answer(disguised)[:, 0] >= 0.5
    assert caught_N[found.truth_N == 0].mean() > 0.9  # it learnt the character too
    result = judged(evidence_on(found, answer), INNOCENCE, monkeypatch)
    assert result.state == "fail"
    assert result.blocks
    assert "zero_width" in result.reason
    assert "benign_padding" not in result.reason


@pytest.fixture
def stutter() -> Iterator[str]:
    """A new attack: one decorated function."""

    @attack("stutter", family="text")
    def stuttered(subject: Subject, severity: float, rng: np.random.Generator) -> Subject:
        """Return the listing with the first letters of its words said twice."""
        words = [f"{word[:2]}-{word}" for word in subject.description.split()]
        return replace(subject, title="", description=" ".join(words))

    yield "stutter"
    del ATTACKS["stutter"]


def test_new_attack_is_judged_when_it_is_registered(found: Shop, stutter: str) -> None:
    answer = ngram_of(shop(500, seed=0), raw)
    evidence = evidence_on(found, answer)
    contract = contract_of(RECALL)

    def check_of_stutter(judged_on: Evidence) -> str:
        results = judge(judged_on, contract, seed=3).results
        checks = next(result.checks for result in results if result.gate.id == RECALL)
        return next(check.state for check in checks if check.estimate.of == stutter)

    assert check_of_stutter(evidence) == "no_data"  # from now on it is asked for
    made = replace(evidence, attacks=(*evidence.attacks, _outcome(stutter, found, answer)))
    assert check_of_stutter(made) in ("pass", "fail", "not_certified")


def test_every_attack_can_be_scored_by_a_bundle(tiny_bundle: Bundle) -> None:
    scorer, world = Scorer.load(tiny_bundle.folder), toy_world(24, seed=8)
    subjects = [
        Subject(
            row.submission.listing.title,
            row.submission.listing.description,
            tuple(decode(data) for data in world.images(row)),
            words=("pistol", "replica", "whatsapp"),
            neighbour=Subject("lamp", "nice blue lamp"),
        )
        for row in world.rows
    ]
    for name in ATTACKS:
        tried = [apply(name, one, severity=GATE, key=b"k") for one in subjects]
        items = [ScoringItem(one.title, one.description, one.images) for one in tried if one]
        assert items
        probability_NP = scorer.score(items).probability_NP
        assert probability_NP.shape == (len(items), len(POLICIES))
        assert np.isfinite(probability_NP).all()
