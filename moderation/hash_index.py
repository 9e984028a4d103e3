"""Every 256-bit hash within a Hamming radius, exactly: multi-index hashing over arrays that may be memory-mapped.

N hashes of 4 words, B bands, P probes of a search, K candidates.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

BITS: Final = 256
_WORD: Final = 64
_WIDEST: Final = 24
"""Bits of a band at most: its table has 2^24 places, 64 MiB."""

_NARROWEST: Final = 8
_BLOCK: Final = 2**18
"""Candidates that are compared at once: 8 MiB of hashes, however many lie in one place of a table."""

Hashes = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]


class Band(NamedTuple):
    """A stretch of the hash's bits with a table of its own."""

    begin: int
    """First bit, counted from the lowest bit of the first word."""

    width: int
    radius: int
    """Bits of the band that a search flips at most."""

    @property
    def num_probes(self) -> int:
        """Places of the band's table that one search looks at."""
        return sum(math.comb(self.width, flips) for flips in range(self.radius + 1))


def plan_bands(num_hashes: int, radius: int) -> tuple[Band, ...]:
    """Return the bands with which a search of `num_hashes` does the least, and misses nothing.

    With m bands and radius = m * s + a (0 <= a < m), one of the first a + 1 bands differs in at most s bits, or one of
    the others in at most s - 1: else the hashes would differ in (a + 1)(s + 1) + (m - a - 1) s = radius + 1 bits. So
    the first a + 1 bands are searched within s and the others within s - 1; those with s - 1 < 0 have no table.
    Cost: one unit per probe and per candidate, whose expected number is N * probes / 2^width per band, for hashes
    with even bits. A table is never wider than twice the hashes, so that memory stays in proportion.

    Raises:
        ValueError: if the radius is not in [0, 255].

    Source:
        Norouzi, Punjani, Fleet 2012, "Fast Search in Hamming Space with Multi-Index Hashing", propositions 1 and 2.
    """
    if not 0 <= radius < BITS:
        raise ValueError(f"a radius lies in [0, {BITS - 1}], not {radius}")
    widest = min(_WIDEST, max(_NARROWEST, (2 * num_hashes).bit_length() - 1))
    counts = range(math.ceil(BITS / widest), BITS // _NARROWEST + 1)
    return min((_split(count, radius) for count in counts), key=lambda b: _cost(b, num_hashes))


def _split(num_bands: int, radius: int) -> tuple[Band, ...]:
    share, more = divmod(radius, num_bands)
    width, wider = divmod(BITS, num_bands)
    bands, begin = [], 0
    for number in range(num_bands):
        own = width + (number < wider)
        reach = share if number <= more else share - 1
        if reach >= 0:
            bands.append(Band(begin, own, reach))
        begin += own
    return tuple(bands)


def _cost(bands: Sequence[Band], num_hashes: int) -> float:
    return sum(band.num_probes * (1 + num_hashes / float(1 << band.width)) for band in bands)


def num_places(bands: Sequence[Band]) -> int:
    """Return the length of `starts`: one place per value of each band, and an end."""
    return sum(2**band.width + 1 for band in bands)


def fill_tables(
    hashes_N4: Hashes,
    bands: Sequence[Band],
    order_BN: npt.NDArray[np.uint32],
    starts: npt.NDArray[np.uint32],
) -> None:
    """Write the tables of `bands`: rows sorted by each band's value, and where each value begins.

    Time N log N per band; memory beyond the output about 16 bytes per hash.

    Args:
        hashes_N4: the hashes; fewer than 2^32.
        bands: as planned for them.
        order_BN: written: rows by the value of the band.
        starts: written: `num_places` positions within the band's rows; the bands lie behind each other.
    """
    base = 0
    for number, band in enumerate(bands):
        values_N = _values(hashes_N4, band)
        order_BN[number] = np.argsort(values_N, kind="stable")
        counts = np.bincount(values_N, minlength=2**band.width)
        starts[base] = 0
        starts[base + 1 : base + 1 + counts.size] = np.cumsum(counts)
        base += counts.size + 1


def _values(hashes_N4: Hashes, band: Band) -> npt.NDArray[np.uint32]:
    """Return what each hash holds in a band, which may lie across two words."""
    word, shift = divmod(band.begin, _WORD)
    values_N = hashes_N4[:, word] >> np.uint64(shift)
    if shift + band.width > _WORD:
        values_N = values_N | hashes_N4[:, word + 1] << np.uint64(_WORD - shift)
    return (values_N & np.uint64(2**band.width - 1)).astype(np.uint32)


@dataclass(frozen=True)
class _Probes:
    """What one search looks at, the same for every hash but for the hash's own values."""

    band_P: Rows
    flips_P: Rows
    base_P: Rows
    """Where the band's places begin in `starts`."""

    @classmethod
    def of(cls, bands: Sequence[Band]) -> "_Probes":
        flips = [_flips(band) for band in bands]
        sizes = [len(one) for one in flips]
        bases = np.cumsum([0, *(2**band.width + 1 for band in bands)])[:-1]
        return cls(
            np.repeat(np.arange(len(bands)), sizes),
            np.concatenate(flips),
            np.repeat(bases, sizes),
        )


def _flips(band: Band) -> Rows:
    masks = [
        sum(1 << bit for bit in bits)
        for flips in range(band.radius + 1)
        for bits in combinations(range(band.width), flips)
    ]
    return np.array(masks, np.int64)


class HashIndex:
    """Searches N hashes by their tables; holds views of the arrays it is given, and copies none."""

    def __init__(
        self,
        hashes_N4: Hashes,
        order_BN: npt.NDArray[np.uint32],
        starts: npt.NDArray[np.uint32],
        bands: Sequence[Band],
        radius: int,
    ) -> None:
        # Plain views: indexing a memmap builds a memmap each time.
        self._hashes_N4 = hashes_N4.view(np.ndarray)
        self._order = order_BN.view(np.ndarray).reshape(-1)
        self._starts = starts.view(np.ndarray)
        self._bands, self._radius = tuple(bands), radius
        self._probes = _Probes.of(bands)

    @classmethod
    def of(cls, hashes_N4: Hashes, radius: int) -> "HashIndex":
        """Return an index in memory."""
        bands = plan_bands(len(hashes_N4), radius)
        order_BN = np.empty((len(bands), len(hashes_N4)), np.uint32)
        starts = np.empty(num_places(bands), np.uint32)
        fill_tables(hashes_N4, bands, order_BN, starts)
        return cls(hashes_N4, order_BN, starts, bands, radius)

    def search(self, hash_4: Hashes) -> tuple[Rows, Rows]:
        """Return every row within the radius and its distance, nearest first, then by row.

        Time: the probes of the plan plus the candidates found there, about 3,000 of each at ten million even hashes;
        hashes that share whole bands make more candidates, at worst N per band, in blocks of bounded memory.

        Args:
            hash_4: one hash, four words.

        Raises:
            IndexError, ValueError: if the tables were altered to what no table holds.
        """
        rows, distances = [], []
        for row_K in self._candidates(hash_4):
            apart_K = np.bitwise_count(self._hashes_N4[row_K] ^ hash_4).sum(axis=1, dtype=np.int64)
            near = np.flatnonzero(apart_K <= self._radius)
            rows.append(row_K[near])
            distances.append(apart_K[near])
        if not rows:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        # Near hashes agree in many bands and are found by each.
        found, first = np.unique(np.concatenate(rows).astype(np.int64), return_index=True)
        distance = np.concatenate(distances)[first]
        nearest = np.argsort(distance, kind="stable")
        return found[nearest], distance[nearest]

    def _candidates(self, hash_4: Hashes) -> Iterator[npt.NDArray[np.uint32]]:
        """Yield rows that agree with the hash in a band, but for the flips of a probe."""
        probes = self._probes
        value_B = np.array([_values(hash_4[None], band)[0] for band in self._bands], np.int64)
        place_P = probes.base_P + (value_B[probes.band_P] ^ probes.flips_P)
        begin_P = self._starts[place_P].astype(np.int64)
        count_P = self._starts[place_P + 1] - begin_P
        if count_P.min() < 0:
            raise ValueError("the tables do not ascend")
        begin_P += probes.band_P * len(self._hashes_N4)
        filled = count_P > 0
        begin, count = begin_P[filled], count_P[filled]
        end = np.cumsum(count)
        for first in range(0, int(end[-1]) if end.size else 0, _BLOCK):
            last = min(first + _BLOCK, int(end[-1]))
            runs = slice(*np.searchsorted(end, [first, last - 1], side="right") + [0, 1])
            sizes = np.minimum(end[runs], last) - np.maximum(end[runs] - count[runs], first)
            shift = np.repeat((begin - end + count)[runs], sizes)
            yield self._order[shift + np.arange(first, last)]
