"""A listing like any other, to warm up with."""

import io

import numpy as np
from PIL import Image

from moderation.features import FEATURE_NAMES
from moderation.scores import ScoringItem

_TEXT = "a listing like any other, to warm up with " * 4


def specimen() -> ScoringItem:
    """Return a listing with every modality."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(stream, "JPEG")
    num_features = len(FEATURE_NAMES)
    return ScoringItem(
        "warm up",
        _TEXT,
        (stream.getvalue(),),
        np.zeros(num_features, np.float32),
        np.zeros(num_features, np.int8),
    )
