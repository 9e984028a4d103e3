"""A feature store that hangs."""

import threading

from featurestore.online import BehaviourRead
from moderation.listing import Submission


class HangingReader:
    """A store that does not answer until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def read(self, submission: Submission) -> BehaviourRead:
        self.let_go.wait(30)
        raise AssertionError("nobody waits for this")

    def close(self) -> None:
        self.let_go.set()
