"""A listing on its way to be prepared, photo by photo: whoever is more urgent waits for one photo, not for eight."""

from collections.abc import Sequence
from dataclasses import replace

from moderation.scoring import PreparedItem, ScoringItem


def num_parts(item: ScoringItem) -> int:
    """Return in how many parts a listing is prepared: one for each image, the text with the first."""
    return max(1, len(item.images))


def part(item: ScoringItem, place: int) -> ScoringItem:
    """Return one part of a listing."""
    if num_parts(item) == 1:
        return item
    image = item.images[place : place + 1]
    return replace(item, images=image) if place == 0 else ScoringItem(images=image)


def joined(parts: Sequence[PreparedItem]) -> PreparedItem:
    """Return a listing from all its parts, in their order."""
    if len(parts) == 1:
        return parts[0]
    return replace(parts[0], images=tuple(image for one in parts for image in one.images))
