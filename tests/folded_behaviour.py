"""A feature store that is always up to date: it folds a ledger anew for every question."""

from datetime import datetime

from featurestore.online import BehaviourRead
from ledger.activity import FOLDED, to_record
from ledger.ledger import Ledger
from moderation.activity import ActivityState
from moderation.listing import Submission


class FoldedBehaviour:
    """Reads what a ledger knew at the instant of an upload."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def read(self, submission: Submission) -> BehaviourRead:
        """Return the behaviour just before `submission`."""
        at: datetime = submission.submitted_at
        state = ActivityState()
        for stored in self._ledger.read(FOLDED, until=at, in_time_order=True):
            state.observe(to_record(stored.event))
        behaviour_F, newest = state.features(submission)
        return BehaviourRead(behaviour_F, newest, at, 0.0)

    def close(self) -> None:
        """Nothing is open."""
