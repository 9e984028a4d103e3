"""Figures as plain JSON values: what reports and packs write for machines."""

import math
from typing import Any

import numpy as np


def without_nan(value: Any) -> Any:
    """Return the same structure with None for what is not a finite number: JSON has no NaN.

    >>> without_nan({"a": (1, float("nan")), 2: np.int64(3)})
    {'a': [1, None], '2': 3}
    """
    if isinstance(value, dict):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
