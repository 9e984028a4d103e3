"""LitServe, with its own batching: PORT."""

import sys
from typing import Any

import litserve

from benchmarks.serving.peers.listing import load_scorer, probabilities, read_listing


class Scoring(litserve.LitAPI):  # type: ignore[misc]  # installed in the peer's environment only
    """The bundle as LitServe's documentation shows it."""

    def setup(self, device: str) -> None:
        """Load the bundle."""
        self.scorer = load_scorer()

    def decode_request(self, request: dict[str, Any]) -> Any:
        """Return the listing."""
        return read_listing(request)

    def batch(self, inputs: Any) -> Any:
        """Keep listings as a list."""
        return list(inputs)

    def predict(self, inputs: Any) -> Any:
        """Score a batch."""
        return probabilities(self.scorer, inputs)

    def unbatch(self, output: Any) -> Any:
        """Give each its own."""
        return list(output)

    def encode_response(self, output: Any) -> dict[str, Any]:
        """Return the answer."""
        return {"probability": output}


if __name__ == "__main__":
    server = litserve.LitServer(
        Scoring(max_batch_size=32, batch_timeout=0.004), accelerator="cpu", workers_per_device=1
    )
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning"
    )
