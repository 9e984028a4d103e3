"""An image that unfolds to hundreds of megabytes waits for the others of its size; small ones wait for none."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from moderation import image as image_module
from moderation.errors import InvalidListing
from moderation.image import decode


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_few_large_images_are_unfolded_at_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, small = _encoded(kind, (4_000, 2_600)), _encoded(kind, (64, 48))
    working, most, is_small_done = 0, 0, threading.Event()
    real = image_module._to_rgb

    def slowly(image: Image.Image) -> Image.Image:
        nonlocal working, most
        if image.size == (64, 48):
            is_small_done.set()
            return real(image)
        working += 1
        most = max(most, working)
        assert is_small_done.wait(20), "a small one waits for no large one"
        working -= 1
        return real(image)

    monkeypatch.setattr(image_module, "_to_rgb", slowly)
    with ThreadPoolExecutor(5) as threads:
        large = [threads.submit(decode, whole) for _ in range(4)]
        while working < 2:
            threading.Event().wait(0.01)
        threads.submit(decode, small).result()
        assert {one.result().size for one in large} == {(4_000, 2_600)}
    assert most == 2
    with pytest.raises(InvalidListing):
        decode(whole[: len(whole) // 2])
    assert image_module._LARGE_AT_ONCE._value == 2, "given back, come what may"


def _encoded(kind: str, size: tuple[int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, "green").save(stream, kind)
    return stream.getvalue()
