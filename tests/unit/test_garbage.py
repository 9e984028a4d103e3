"""What a server loaded is out of its garbage collector's way."""

import gc
from collections.abc import Iterator

import pytest

from serving.garbage import freeze_loaded


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_a_collection_does_not_visit_what_was_there_before() -> None:
    loaded = [[n] for n in range(1_000)]

    freeze_loaded()

    visited = {id(one) for one in gc.get_objects()}
    assert not visited & {id(one) for one in loaded}
    assert gc.get_freeze_count() >= len(loaded)


def test_what_comes_later_is_collected_as_before() -> None:
    freeze_loaded()
    circle: list[object] = []
    circle.append(circle)
    del circle

    assert gc.collect() >= 1
