"""A world's history as arrays, for the audit: what a model may see, what was established, and what is true."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from marketplace.config import POLICIES, WorldConfig
from marketplace.history import KeywordRule, simulate
from marketplace.outcomes import WorldEvent, event_time
from marketplace.wording import skeleton
from marketplace.world import World
from moderation.activity import ActivityState
from moderation.encoders import ImageEncoder, TextEncoder
from moderation.evaluation.baseline import keyword_scores
from moderation.features import FEATURE_NAMES
from moderation.image import decode
from moderation.listing import Appeal, GroundTruth, Report, Submission
from moderation.policy import PolicyFile
from moderation.text import NgramText, model_text, ngram_texts

Floats = npt.NDArray[np.float64]
Log = Sequence[Submission | WorldEvent]
_CHUNK: Final = 128
_PLACES: Final = {"template": "template", "asset": "asset", "campaign": "campaign"}


@dataclass(frozen=True)
class AuditRows:
    """One row per submission, in time order; N rows, I images, P policies, F features."""

    truth_NP: npt.NDArray[np.int8]
    """Noise-free."""

    known_NP: npt.NDArray[np.int8]
    """What was established by the end; -1 where nothing was."""

    inclusion_N: Floats
    propensity_N: Floats
    oracle_NP: Floats
    keyword_NP: Floats
    behaviour_NF: npt.NDArray[np.float32]
    metadata: dict[str, npt.NDArray[Any]]
    """Single facts of a listing that a model could lean on."""

    skeletons: list[str]
    texts: list[NgramText]
    image_ID: npt.NDArray[np.float32]
    image_row_I: npt.NDArray[np.int64]
    text_ND: npt.NDArray[np.float32]
    slices: dict[str, list[str]]
    """Seller, template, asset, campaign, evasion, hard_negative, needs_both of each row; empty where none."""

    group_N: npt.NDArray[np.int64]
    log: Log
    """Every submission and event, by event time."""

    @property
    def weight_N(self) -> Floats:
        """Weight of each row in the whole marketplace."""
        return 1 / self.inclusion_N


class _Collector:
    """A sink that keeps texts, facts and embeddings, and lets go of the images."""

    def __init__(self, world: World, encoders: tuple[ImageEncoder, TextEncoder] | None) -> None:
        self._world = world
        self._encoders = encoders
        self._waiting: list[bytes] = []
        self._num_embedded = 0
        self.submissions: list[Submission] = []
        self.events: list[WorldEvent] = []
        self.images: list[npt.NDArray[np.float32]] = []
        self.image_rows: list[int] = []
        self.texts: list[npt.NDArray[np.float32]] = []

    def on_submission(self, submission: Submission, images: list[bytes]) -> None:
        """Keep what the audit needs of one submission."""
        if self._encoders:
            self.image_rows += [len(self.submissions)] * len(images)
            self._waiting += images
        self.submissions.append(submission)
        if len(self._waiting) >= _CHUNK:
            self.embed()

    def embed(self) -> None:
        """Embed what is waiting, on the threads of the encoders."""
        if self._encoders is None:
            return
        image_encoder, text_encoder = self._encoders
        self.images += image_encoder.each(
            lambda data: image_encoder.encode_one(decode(data)), self._waiting
        )
        fresh = [s.listing for s in self.submissions[self._num_embedded :]]
        texts = [model_text(listing.title, listing.description) for listing in fresh]
        self.texts += text_encoder.each(text_encoder.encode_one, texts)
        self._waiting, self._num_embedded = [], len(self.submissions)

    def on_event(self, event: WorldEvent) -> None:
        """Keep one event."""
        self.events.append(event)


def collect(
    config: WorldConfig,
    policies: PolicyFile,
    encoders: tuple[ImageEncoder, TextEncoder] | None,
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> AuditRows:
    """Return the rows of a world that keywords and random audits decided.

    Args:
        config: the world.
        policies: its keywords decide, and are the baseline.
        encoders: towers; None leaves the embeddings empty.
        progress: is told the number of submissions so far, after each.
    """
    world = World(config)
    sink = _Collector(world, encoders)
    rule = KeywordRule(policies)

    def decide(submission: Submission, images: list[bytes]) -> str:
        progress(len(sink.submissions))
        return rule(submission, images)

    simulate(world, sink, decide)
    sink.embed()
    return _arrange(world, sink, policies)


def _arrange(world: World, sink: _Collector, policies: PolicyFile) -> AuditRows:
    submissions = sink.submissions
    log = sorted([*submissions, *sink.events], key=instant)
    oracles = [world.oracle(submission.submission_id) for submission in submissions]
    known_NP, propensity_N = _known(submissions, sink.events)
    listings = [submission.listing for submission in submissions]
    texts = [ngram_texts(listing.title, listing.description) for listing in listings]
    sellers = {listing.seller_id: i for i, listing in enumerate(listings)}
    return AuditRows(
        truth_NP=np.array([[o.violated == p for p in POLICIES] for o in oracles], np.int8),
        known_NP=known_NP,
        inclusion_N=np.array([s.inclusion_probability for s in submissions]),
        propensity_N=propensity_N,
        oracle_NP=np.array([[o.probability[p] for p in POLICIES] for o in oracles]),
        keyword_NP=keyword_scores(texts, policies),
        behaviour_NF=fold(log),
        metadata=_metadata(submissions),
        skeletons=[f"{li.language}: {skeleton(li.title, str(li.language))}" for li in listings],
        texts=texts,
        image_ID=_table(sink.images),
        image_row_I=np.array(sink.image_rows, np.int64),
        text_ND=_table(sink.texts),
        slices=_slices(submissions),
        group_N=np.array([sellers[listing.seller_id] for listing in listings], np.int64),
        log=log,
    )


def _table(rows: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    return np.stack(rows) if rows else np.zeros((0, 1), np.float32)


def instant(entry: Submission | WorldEvent) -> datetime:
    """Return the time at which an entry of the log happened or became known."""
    return entry.submitted_at if isinstance(entry, Submission) else event_time(entry)


def fold(log: Iterable[Submission | WorldEvent]) -> npt.NDArray[np.float32]:
    """Return the behaviour features of every submission of `log`, folded in its order."""
    state, rows = ActivityState(), []
    for entry in log:
        if isinstance(entry, Submission):
            rows.append(state.features(entry)[0])
            state.observe_submission(entry)
        elif isinstance(entry, GroundTruth):
            state.observe_truth(entry)
        elif isinstance(entry, Report):
            state.observe_report(entry)
        elif isinstance(entry, Appeal):
            state.observe_appeal(entry)
    return np.array(rows, np.float32).reshape(len(rows), len(FEATURE_NAMES))


def _known(
    submissions: Sequence[Submission], events: Iterable[WorldEvent]
) -> tuple[npt.NDArray[np.int8], Floats]:
    row_of = {submission.submission_id: row for row, submission in enumerate(submissions)}
    known_NP = np.full((len(submissions), len(POLICIES)), -1, np.int8)
    propensity_N = np.ones(len(submissions))
    for event in events:
        if isinstance(event, GroundTruth):
            row = row_of[event.submission_id]
            known_NP[row, POLICIES.index(event.policy)] = event.violates
            propensity_N[row] = event.propensity
    return known_NP, propensity_N


def _metadata(submissions: Sequence[Submission]) -> dict[str, npt.NDArray[Any]]:
    listings = [submission.listing for submission in submissions]
    return {
        "price": np.array([listing.price or 0.0 for listing in listings]),
        "num_images": np.array([len(s.image_digests) for s in submissions], float),
        "title_chars": np.array([len(listing.title) for listing in listings], float),
        "description_chars": np.array([len(listing.description) for listing in listings], float),
        "hour": np.array([s.submitted_at.hour for s in submissions], float),
        "weekday": np.array([s.submitted_at.weekday() for s in submissions], float),
        "category": np.array([listing.category or "" for listing in listings]),
        "region": np.array([listing.region or "" for listing in listings]),
        "language": np.array([listing.language or "" for listing in listings]),
        "currency": np.array([listing.currency or "" for listing in listings]),
    }


def _slices(submissions: Sequence[Submission]) -> dict[str, list[str]]:
    names = (*_PLACES, "evasion", "hard_negative", "needs_both")
    slices = {name: [s.attributes.get(name, "") for s in submissions] for name in names}
    return slices | {"seller": [str(s.listing.seller_id) for s in submissions]}
