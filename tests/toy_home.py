"""A home folder with a ledger of the toy marketplace, for tests of the pipeline and of the command."""

from datetime import timedelta
from pathlib import Path

from components.home import Home
from ledger.events import from_ground_truth, from_submission
from ledger.ledger import SqliteLedger
from ledger.store import ContentStore
from moderation.listing import GroundTruth, TruthSource
from tests.toy import toy_world

_DELAY = timedelta(hours=2)


def toy_home(folder: Path, num_rows: int, seed: int = 5) -> Home:
    """Return a home whose ledger holds `num_rows` listings with truth about all of them."""
    home, world = Home(folder), toy_world(num_rows, seed)
    store = ContentStore(home.content)
    for data in world.blobs.values():
        store.put(data)
    events = []
    for row in world.rows:
        submission = row.submission
        events.append(from_submission(submission, recorded_at=submission.submitted_at))
        for policy, violates in row.truth.items():
            truth = GroundTruth(
                submission_id=submission.submission_id,
                policy=policy,
                violates=violates,
                source=TruthSource.REVIEW,
                reviewed_at=submission.submitted_at + _DELAY,
                known_at=submission.submitted_at + _DELAY,
            )
            events.append(from_ground_truth(truth, recorded_at=truth.known_at))
    SqliteLedger(home.ledger).append(events)
    return home
