"""A process that opens the feature store pays for neither torch nor checks of types that mypy has made."""

import subprocess
import sys

import typeguard

import featurestore.lean

_FRESH = """
import sys
import featurestore.repository
assert "torch" not in sys.modules, "Feast has loaded torch"
import feast
assert not any("typeguard" in name for name in feast.FeatureView.__init__.__code__.co_names)
from feast.torch_wrapper import get_torch
assert get_torch().__name__ == "torch"
"""


def test_a_fresh_process_is_light() -> None:
    done = subprocess.run([sys.executable, "-c", _FRESH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_other_code_is_still_checked() -> None:
    featurestore.lean.lighten_feast()

    @typeguard.typechecked
    def one(number: int) -> int:
        return number

    @typeguard.typechecked(collection_check_strategy=typeguard.CollectionCheckStrategy.ALL_ITEMS)
    def two(number: int) -> int:
        return number

    class Feasts:
        def __init__(self, number: int) -> None:
            self.number = number

    Feasts.__module__ = "feast.made"
    assert typeguard.typechecked(Feasts) is Feasts
    for checked in (one, two):
        try:
            checked("1")  # type: ignore[arg-type]
        except typeguard.TypeCheckError:
            continue
        raise AssertionError("typeguard checks nothing any more")
