"""KServe's plain Python model, without batching: PORT."""

import sys
from typing import Any

from benchmarks.serving.peers.listing import load_scorer, probabilities, read_listing


def main() -> None:
    """Serve as KServe's documentation shows it: `predict` is a plain method."""
    port = sys.argv[1]
    scorer = load_scorer()
    sys.argv[1:] = ["--http_port", port, "--enable_grpc", "false"]
    from kserve import Model, ModelServer, model_server

    model_server.args.configure_logging = False

    class Scoring(Model):  # type: ignore[misc]  # KServe ships no types
        def predict(self, payload: dict[str, Any], headers: Any = None) -> dict[str, Any]:
            items = [read_listing(one) for one in payload["instances"]]
            return {"predictions": probabilities(scorer, items)}

    model = Scoring("tidegate")
    model.ready = True
    ModelServer(
        http_port=int(port), enable_grpc=False, workers=1, enable_latency_logging=False
    ).start([model])


if __name__ == "__main__":
    main()
