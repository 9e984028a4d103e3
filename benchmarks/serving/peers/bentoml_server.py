"""BentoML, with its adaptive batching; run by `bentoml serve`."""

from typing import Any

import bentoml

from benchmarks.serving.peers.listing import load_scorer, probabilities, read_listing


@bentoml.service(workers=1, traffic={"timeout": 60})
class Scoring:
    """The bundle as BentoML's documentation shows it."""

    def __init__(self) -> None:
        self.scorer = load_scorer()

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=10_000)  # type: ignore[untyped-decorator]
    def score(self, listings: list[dict[str, Any]]) -> list[list[float]]:
        """Score a batch."""
        return probabilities(self.scorer, [read_listing(one) for one in listings])
