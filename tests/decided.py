"""A decision for tests that read one: everything of it is plain but for what a test names."""

from datetime import datetime
from typing import Any

from moderation.decision import Decision, Versions


def a_decision(submission_id: str, at: datetime, **fields: Any) -> Decision:
    """Return a decision about a submission, taken when it was submitted; `fields` replace what is plain."""
    plain: dict[str, Any] = {
        "decision_id": f"d-{submission_id}",
        "trace_id": f"t-{submission_id}",
        "submission_id": submission_id,
        "tier": "allow",
        "reason_codes": (),
        "attempts": (),
        "arm": "champion",
        "weight": 1.0,
        "sticky_key": "s1",
        "routing_revision": 1,
        "input_digests": {},
        "features": (),
        "versions": Versions(bundle=None, policy="1"),
        "submitted_at": at,
        "decided_at": at,
    }
    return Decision(**plain | fields)
