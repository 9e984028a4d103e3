"""Feast without what it says of its own state."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_feast() -> Iterator[None]:
    """Keep what Feast and its engines say of their own state out of the way; errors still raise."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "On demand feature view is an experimental", RuntimeWarning
        )
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="ibis")
        yield
