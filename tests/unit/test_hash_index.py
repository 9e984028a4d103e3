"""The search by bands finds what comparing with every hash finds, at every distance and size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moderation.hash_index import BITS, HashIndex, plan_bands
from tests.bank_world import Hash, apart, flipped, hashes

RADIUS = 31


def brute_force(hashes_N4: Hash, wanted: Hash, radius: int) -> dict[int, int]:
    distance = np.bitwise_count(hashes_N4 ^ wanted).sum(axis=1, dtype=int)
    return {int(row): int(distance[row]) for row in np.flatnonzero(distance <= radius)}


def found(index: HashIndex, wanted: Hash) -> dict[int, int]:
    rows, distances = index.search(wanted)
    assert distances.tolist() == sorted(distances.tolist())
    assert len(set(rows.tolist())) == len(rows)
    return dict(zip(rows.tolist(), distances.tolist(), strict=True))


@given(num=st.sampled_from([1, 2, 33, 700, 5_000]), seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=60, deadline=None)
def test_search_equals_brute_force(num: int, seed: int, data: st.DataObject) -> None:
    hashes_N4 = hashes(num, seed)
    row = data.draw(st.integers(0, num - 1))
    # Copies around it, so that one search has matches on both sides of the border.
    for near, distance in enumerate((0, 1, RADIUS - 1, RADIUS, RADIUS + 1)):
        hashes_N4[(row + near) % num] = apart(hashes_N4[row], distance, seed + near)
    index = HashIndex.of(hashes_N4, RADIUS)
    wanted = apart(hashes_N4[row], data.draw(st.integers(0, RADIUS + 3)), seed)
    assert found(index, wanted) == brute_force(hashes_N4, wanted, RADIUS)


@pytest.mark.parametrize("num", [1, 900, 3_000, 40_000])
@pytest.mark.parametrize("radius", [0, 7, 30, 31, 32, 64])
def test_worst_spread_of_bits_is_found_at_the_radius(num: int, radius: int) -> None:
    hashes_N4 = hashes(num, radius)
    index = HashIndex.of(hashes_N4, radius)
    bands = plan_bands(num, radius)
    for row in range(0, num, max(1, num // 7)):
        # As many flips in every band as the adversary has, spread so that no band is spared.
        ends = [band.begin for band in bands] + [band.begin + band.width - 1 for band in bands]
        order = [*ends, *(bit for bit in range(BITS) if bit not in ends)]
        for flips in {max(radius - 1, 0), radius, radius + 1}:
            wanted = flipped(hashes_N4[row], order[:flips])
            assert found(index, wanted) == brute_force(hashes_N4, wanted, radius)
            assert (row in found(index, wanted)) == (flips <= radius)


def test_bands_leave_no_distance_uncovered() -> None:
    for num in (1, 100, 10**4, 10**6, 10**7):
        for radius in (0, 1, 15, 31, 64):
            bands = plan_bands(num, radius)
            # An adversary flips one bit more than each band's search does; bands without a table take none.
            assert sum(band.radius + 1 for band in bands) == radius + 1
            assert all(band.width <= 24 for band in bands)


def test_many_equal_hashes_are_all_found() -> None:
    num = 2**18 + 5
    hashes_N4 = np.tile(hashes(1), (num, 1))
    hashes_N4[7] = ~hashes_N4[7]
    rows, distances = HashIndex.of(hashes_N4, RADIUS).search(apart(hashes_N4[0], 3))
    assert len(rows) == num - 1
    assert set(distances.tolist()) == {3}
    assert 7 not in rows


@pytest.mark.parametrize("radius", [-1, 256])
def test_a_radius_out_of_range_is_refused(radius: int) -> None:
    with pytest.raises(ValueError, match="radius lies in"):
        plan_bands(10, radius)
