"""Attacked photos show the same to a person, and are not what training views show."""

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy import ndimage

from moderation import augment
from moderation.attacks import image as attacks
from moderation.attacks.lettering import fitting_font, font, is_drawable
from moderation.attacks.registry import GATE, MILD, SEVERITIES, STRONG, Subject, apply
from tests.attacked import WORDS, photo

KEY = b"s-17"
FLOOR = {
    "blur": (0.90, 0.80, 0.70),
    "jpeg": (0.90, 0.85, 0.70),
    "noise": (0.60, 0.35, 0.15),
    "watermark": (0.85, 0.75, 0.60),
    "overlay": (0.90, 0.80, 0.65),
    "colour": (0.90, 0.80, 0.60),
}
TURNS = tuple(Image.Transpose)

Floats = npt.NDArray[np.float64]


def _attacked(name: str, found: Image.Image, severity: float = GATE) -> Image.Image:
    changed = apply(name, Subject("", "", (found,)), severity=severity, key=KEY)
    assert changed is not None
    return changed.images[0]


def _grey(image: Image.Image) -> Floats:
    return np.asarray(image.convert("L"), np.float64)


def _similarity(one: Image.Image, other: Image.Image) -> float:
    """Return the mean structural similarity of two pictures (Wang et al. 2004), at the scale of a tower's input."""
    one_HW, other_HW = (
        _grey(image.resize((160, 120), Image.Resampling.BOX)) for image in (one, other)
    )

    def mean(values_HW: Floats) -> Floats:
        smooth_HW: Floats = ndimage.gaussian_filter(values_HW, 1.5)
        return smooth_HW

    means = mean(one_HW), mean(other_HW)
    shared_HW = mean(one_HW * other_HW) - means[0] * means[1]
    own_HW = mean(one_HW**2) - means[0] ** 2 + mean(other_HW**2) - means[1] ** 2
    steady = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    brightness_HW = (2 * means[0] * means[1] + steady[0]) / (
        means[0] ** 2 + means[1] ** 2 + steady[0]
    )
    return float((brightness_HW * (2 * shared_HW + steady[1]) / (own_HW + steady[1])).mean())


@pytest.mark.parametrize("name", FLOOR)
def test_structure_is_kept(name: str) -> None:
    found = photo()
    similar = [_similarity(found, _attacked(name, found, severity)) for severity in SEVERITIES]
    assert all(value >= floor for value, floor in zip(similar, FLOOR[name], strict=True)), similar
    assert similar[0] > similar[2]
    assert similar[1] < 0.999


@pytest.mark.parametrize("severity", SEVERITIES)
def test_crop_is_a_part_with_the_middle(severity: float) -> None:
    found = photo()
    part_HWC, whole_HWC = np.asarray(_attacked("crop", found, severity)), np.asarray(found)
    height, width = part_HWC.shape[:2]
    places = [
        (top, left)
        for top in range(whole_HWC.shape[0] - height + 1)
        for left in range(whole_HWC.shape[1] - width + 1)
        if np.array_equal(whole_HWC[top, left : left + width], part_HWC[0])
    ]
    assert len(places) == 1
    ((top, left),) = places
    assert np.array_equal(whole_HWC[top : top + height, left : left + width], part_HWC)
    assert top < whole_HWC.shape[0] / 2 < top + height
    assert left < whole_HWC.shape[1] / 2 < left + width


@pytest.mark.parametrize("name", ["pad", "screenshot_frame"])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_frame_holds_the_photo_unharmed(name: str, severity: float) -> None:
    found = photo()
    assert _holds(_attacked(name, found, severity), found)


def _holds(whole: Image.Image, part: Image.Image) -> bool:
    """Return whether a picture holds another one, pixel by pixel."""
    whole_HWC, part_HWC = np.asarray(whole), np.asarray(part)
    height, width = part_HWC.shape[:2]
    return any(
        np.array_equal(whole_HWC[top : top + height, left : left + width], part_HWC)
        for top in range(whole_HWC.shape[0] - height + 1)
        for left in range(whole_HWC.shape[1] - width + 1)
        if np.array_equal(whole_HWC[top, left], part_HWC[0, 0])
    )


@pytest.mark.parametrize("severity", [MILD, GATE])
def test_mirror_is_exact_and_no_plain_flip(severity: float) -> None:
    found = photo()
    mirrored = _attacked("mirror", found, severity)
    same = [turn for turn in TURNS if found.transpose(turn) == mirrored]
    assert len(same) == 1
    assert same[0] is not Image.Transpose.FLIP_LEFT_RIGHT


def test_mirror_shows_both_when_strong() -> None:
    found = photo()
    both = _attacked("mirror", found, STRONG)
    left = both.crop((0, 0, both.width // 2, both.height))
    assert any(found.transpose(turn) == left for turn in TURNS)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_rotation_turns_the_whole_photo(severity: float) -> None:
    found = photo()
    turned = _attacked("rotation", found, severity)
    assert turned.width > found.width

    def back(angle: float) -> float:
        whole = turned.rotate(angle, Image.Resampling.BILINEAR)
        left, top = (turned.width - found.width) // 2, (turned.height - found.height) // 2
        return _similarity(found, whole.crop((left, top, left + found.width, top + found.height)))

    angles = [
        sign * attacks.ANGLE * severity * share
        for sign in (1, -1)
        for share in np.linspace(0.9, 1.1, 9)
    ]
    assert max(map(back, angles)) > 0.75


def test_attacks_are_stronger_than_training_views() -> None:
    assert 0.9 * attacks.ANGLE * MILD > augment._MAX_ANGLE
    mild = attacks.KEPT / (attacks.KEPT + (1 - attacks.KEPT) * MILD)
    assert mild < augment._MIN_CROP + 1e-9
    assert 0.5 + (attacks.RADIUS - 0.5) * MILD > 1.2  # the widest blur of a view
    assert attacks.QUALITY * 2 ** (1 - MILD) < 35  # the lowest quality of a view


def test_large_photos_are_reduced_and_thin_ones_widened() -> None:
    assert min(_attacked("noise", Image.new("RGB", (3000, 2000))).size) == attacks.MAX_SIDE
    assert _attacked("noise", Image.new("RGB", (1, 1))).size == (16, 16)
    assert max(_attacked("noise", Image.new("RGB", (9000, 10))).size) <= 8 * attacks.MAX_SIDE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pistol", True),
        ("größe ñ", True),
        ("пистолет", True),
        ("手枪", False),
        ("مسدس", False),
        ("שלום", False),
    ],
)
def test_only_known_letters_are_drawn(text: str, expected: bool) -> None:
    assert is_drawable(text) is expected


def test_font_fits_a_width() -> None:
    assert 90 < fitting_font("SAMPLE", 100).getlength("SAMPLE") < 110
    assert font(1).size == 8


def test_words_move_into_the_photo() -> None:
    found = photo()
    listing = Subject(
        "Selling Glock 19, boxed", "With brass  knuckles. Call.", (found, photo(3)), WORDS
    )
    changed = apply("words_into_image", listing, severity=GATE, key=KEY)
    assert changed is not None
    assert (changed.title, changed.description) == ("Selling 19, boxed", "With . Call.")
    assert _holds(changed.images[0], found)
    assert changed.images[1] is listing.images[1]
    strip_HW = _grey(changed.images[0])[: changed.images[0].height - found.height]
    assert min(np.ptp(strip_HW), np.ptp(_grey(changed.images[0])[found.height :])) > 150


def test_title_moves_when_no_word_is_telling() -> None:
    changed = apply(
        "words_into_image", Subject("Продам", "вещь", (), WORDS), severity=GATE, key=KEY
    )
    assert changed is not None
    assert (changed.title, changed.description) == ("", "вещь")
    assert len(changed.images) == 1
    assert np.ptp(_grey(changed.images[0])) > 150


@pytest.mark.parametrize("title", ["手枪", "", "  "])
def test_words_stay_when_they_cannot_be_drawn(title: str) -> None:
    found = Subject(title, "text", (photo(),), WORDS)
    assert apply("words_into_image", found, severity=GATE, key=KEY) is None


def test_long_title_never_buries_the_photo() -> None:
    found = photo()
    changed = apply("words_into_image", Subject("w" * 300, "", (found,)), severity=MILD, key=KEY)
    assert changed is not None
    assert changed.images[0].height < 2 * found.height


def test_own_words_come_last_under_a_neighbours() -> None:
    neighbour = Subject("Garden chair", "Oak wood. " * 1_990)
    found = Subject("Glock 19", "As new. " * 100, (photo(),), WORDS, neighbour)
    changed = apply("neighbour_text", found, severity=GATE, key=KEY)
    assert changed is not None
    assert changed.title == "Garden chair"
    assert changed.description.startswith("Oak wood.")
    assert changed.description.endswith(f"{found.title}\n{found.description}")
    assert changed.images[0] is found.images[0]
    mild, strong = (apply("neighbour_text", found, severity=s, key=KEY) for s in (MILD, STRONG))
    assert mild is not None
    assert strong is not None
    assert mild.title == found.title
    assert (strong.title, strong.description) == (neighbour.title, neighbour.description)


@pytest.mark.parametrize(
    "changes",
    [
        {"images": ()},
        {"neighbour": None},
        {"neighbour": Subject(" ", "")},
        {"description": "w" * 20_000},
    ],
)
def test_neighbours_text_needs_photo_neighbour_and_room(changes: dict[str, object]) -> None:
    fields: dict[str, object] = {
        "title": "Glock",
        "description": "",
        "images": (photo(),),
        "neighbour": Subject("Chair", "Oak."),
    }
    found = Subject(**(fields | changes))  # type: ignore[arg-type]
    assert apply("neighbour_text", found, severity=GATE, key=KEY) is None
