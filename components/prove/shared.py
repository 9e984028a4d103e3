"""What proofs of several candidates have in common: taken once where they follow each other in one process."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TypeVar, cast

from moderation.rescoring import Readings

Part = TypeVar("Part")


@dataclass
class Shared:
    """Parts that no candidate has a say in, by everything that they depend on; it lives no longer than its process.

    Every proof has one. Only whoever proves many candidates of one home, as the gates' self-test does, hands the same
    one to all of them. It must not outlive an erasure: rows that it holds are in memory.
    """

    readings: Readings | None = None
    """What is read of texts; None where texts are not kept: a proof by itself reads most of them once."""

    _kept: dict[Hashable, object] = field(default_factory=dict)

    def once(self, key: Hashable, make: Callable[[], Part]) -> Part:
        """Return a part, made where it is not there; what could not be made is tried again.

        Args:
            key: names the part and everything that it depends on, by digest where it is large.
            make: gives it; nobody may change it afterwards.
        """
        if key not in self._kept:
            self._kept[key] = make()
        return cast(Part, self._kept[key])
