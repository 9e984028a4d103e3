"""The bundle's behaviour prefilter as a second V2 model: a gateway fetches it once per release, without the bundle."""

from typing import Any

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, Model
from kserve.errors import InvalidInput

from moderation.behaviour_prefilter import Prefilter
from serving.openinference import PREFILTER_MODEL_NAME
from serving.predictor.inputs import parse_bundle


class PrefilterModel(Model):  # type: ignore[misc]  # KServe ships no types
    """Hands out one prefilter, whole.

    Args:
        prefilter: of the loaded bundle.
        bundle: digest of the bundle, which a caller must name.
    """

    def __init__(self, prefilter: Prefilter, bundle: str) -> None:
        super().__init__(PREFILTER_MODEL_NAME)
        self._data = prefilter.to_bytes()
        self._bundle = bundle
        self.ready = True

    async def predict(
        self, payload: InferRequest, headers: dict[str, str] | None = None
    ) -> InferResponse:
        """Return the prefilter's bytes.

        Raises:
            InvalidInput: if the request names no bundle, or another one (400, INVALID_ARGUMENT).
        """
        wanted = parse_bundle(payload)
        if wanted != self._bundle:
            raise InvalidInput(
                f'input "bundle" is {wanted}, but here is {self._bundle}; ask the predictor that serves it'
            )
        output = InferOutput(name="prefilter", shape=[1], datatype="BYTES")
        is_raw = payload.use_binary_outputs
        output.set_data_from_numpy(np.array([self._data], object), binary_data=is_raw)
        return InferResponse(
            response_id=payload.id or "prefilter",
            model_name=self.name,
            model_version=self._bundle,
            infer_outputs=[output],
            use_binary_outputs=is_raw,
        )

    def get_input_types(self) -> list[dict[str, Any]]:
        """Return the V2 description of the inputs."""
        return [{"name": "bundle", "datatype": "BYTES", "shape": [1]}]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Return the V2 description of the outputs: canonical JSON."""
        return [{"name": "prefilter", "datatype": "BYTES", "shape": [1]}]
