"""MLServer, with its adaptive batching: PORT."""

import asyncio
import sys

import numpy as np
from mlserver import MLModel, MLServer
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.settings import ModelParameters, ModelSettings, Settings
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.serving.peers.listing import load_scorer, probabilities, read_listing


class Scoring(MLModel):  # type: ignore[misc]  # installed in the peer's environment only
    """The bundle as MLServer's documentation shows it; one image a listing, or none in all of a request."""

    async def load(self) -> bool:
        """Load the bundle."""
        self.scorer = load_scorer()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Score a batch."""
        columns = {one.name: StringCodec.decode_input(one) for one in payload.inputs}
        titles = columns["title"]
        images = [[image] for image in columns.get("images", ())] or [[]] * len(titles)
        items = [
            read_listing({"title": title, "images": own})
            for title, own in zip(titles, images, strict=True)
        ]
        found = np.array(probabilities(self.scorer, items))
        output = NumpyCodec.encode_output("probability", found)
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=[output])


async def _serve() -> None:
    port = int(sys.argv[1])
    server = MLServer(
        Settings(
            host="127.0.0.1",
            http_port=port,
            grpc_port=port + 1,
            metrics_port=port + 2,
            parallel_workers=0,
            debug=False,
            metrics_dir="/tmp",
        )
    )
    parameters = ModelParameters(version="1")
    model = ModelSettings(
        name="tidegate",
        implementation=Scoring,
        parameters=parameters,
        max_batch_size=32,
        max_batch_time=0.004,
    )
    await server.start([model])


if __name__ == "__main__":
    asyncio.run(_serve())
