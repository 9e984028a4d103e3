"""Exact look-ups in banks of a million and ten million hashes: ours from the mapped files beside faiss in memory."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import faiss
import numpy as np
import numpy.typing as npt

from benchmarks.harness import Bench, Target
from moderation.clock import SystemClock
from moderation.hash_index import HashIndex, fill_tables, num_places, plan_bands
from moderation.pdq import MAX_DISTANCE

Hashes = npt.NDArray[np.uint64]
Found = set[tuple[int, int]]
Look = Callable[[Hashes], Found]

BITS: Final = 256
_BANDS: Final = 16
"""Of faiss's multi-index: 31 differing bits over 16 bands leave one band within one bit, so one flip misses nothing."""

_FLIPS: Final = 1
_FLAT_QUERIES: Final = 40
"""A flat search reads every hash; more of them would only take longer."""

OURS: Final = "ours, mapped files"
FLAT: Final = "faiss flat"
MULTI: Final = "faiss multi-index"


def compare_lookups(bench: Bench, sizes: tuple[int, ...], num_queries: int) -> None:
    """Add the rows and targets of every size; half of the queries are near an entry."""
    faiss.omp_set_num_threads(1)
    for num_hashes in sizes:
        folder = Path(tempfile.mkdtemp(prefix="tidegate-banks-"))
        try:
            _compare(bench, num_hashes, num_queries, folder)
        finally:
            shutil.rmtree(folder)


def _compare(bench: Bench, num_hashes: int, num_queries: int, folder: Path) -> None:
    rng = np.random.default_rng(11)
    hashes_N4 = rng.integers(0, 2**64, (num_hashes, 4), np.uint64)
    queries = _queries(rng, hashes_N4, num_queries)
    built = {name: _built(make, hashes_N4, folder) for name, make in _MAKERS.items()}
    looks = {name: look for name, (look, _) in built.items()}
    times, answers = _interleaved(looks, queries)
    for name, found in times.items():
        bench.rows.append(_row(num_hashes, name, built[name][1], found))
    wrong = sum(
        answers[OURS][query] != expected
        for name in (FLAT, MULTI)
        for query, expected in answers[name].items()
    )
    title = f"{num_hashes:,} hashes: "
    bench.targets.append(Target(title + "answers that differ from faiss", "0", wrong, not wrong))
    ours = float(np.quantile(times[OURS], 0.99))
    for name in (FLAT, MULTI):
        ratio = ours / float(np.quantile(times[name], 0.99))
        bench.targets.append(Target(title + f"p99 over {name}", "<= 1", ratio, ratio <= 1))


def _queries(rng: np.random.Generator, hashes_N4: Hashes, num: int) -> Hashes:
    """Return hashes of which the even ones lie 0 to 31 bits from an entry."""
    queries = rng.integers(0, 2**64, (num, 4), np.uint64)
    rows = rng.integers(0, len(hashes_N4), num)
    for number in range(0, num, 2):
        flipped = np.zeros(BITS, bool)
        flipped[rng.choice(BITS, number // 2 % (MAX_DISTANCE + 1), replace=False)] = True
        mask_4 = np.packbits(flipped).view(np.uint64)
        queries[number] = hashes_N4[rows[number]] ^ mask_4
    return queries


def _built(
    make: Callable[[Hashes, Path], Look], hashes_N4: Hashes, folder: Path
) -> tuple[Look, float]:
    timer = SystemClock()
    begin = timer.monotonic()
    return make(hashes_N4, folder), timer.monotonic() - begin


def _ours(hashes_N4: Hashes, folder: Path) -> Look:
    """Build as a version of the banks is built: tables in files, which look-ups map."""
    bands = plan_bands(len(hashes_N4), MAX_DISTANCE)
    shapes = {"order": (len(bands), len(hashes_N4)), "starts": (num_places(bands),)}
    files: dict[str, Any] = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint32, shape)
        for name, shape in shapes.items()
    }
    fill_tables(hashes_N4, bands, files["order"], files["starts"])
    np.save(folder / "hashes.npy", hashes_N4)
    mapped = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in (*shapes, "hashes")}
    index = HashIndex(mapped["hashes"], mapped["order"], mapped["starts"], bands, MAX_DISTANCE)

    def look(query_4: Hashes) -> Found:
        rows, distances = index.search(query_4)
        return set(zip(rows.tolist(), distances.tolist(), strict=True))

    return look


def _flat(hashes_N4: Hashes, _: Path) -> Look:
    return _filled(faiss.IndexBinaryFlat(BITS), hashes_N4)


def _multi(hashes_N4: Hashes, _: Path) -> Look:
    index = faiss.IndexBinaryMultiHash(BITS, _BANDS, BITS // _BANDS)
    index.nflip = _FLIPS
    return _filled(index, hashes_N4)


def _filled(index: Any, hashes_N4: Hashes) -> Look:
    index.add(hashes_N4.view(np.uint8).reshape(len(hashes_N4), -1))

    def look(query_4: Hashes) -> Found:
        # faiss takes what is nearer than the radius; ours what is not farther.
        _, distances, rows = index.range_search(query_4.view(np.uint8)[None], MAX_DISTANCE + 1)
        return set(zip(rows.tolist(), distances.astype(int).tolist(), strict=True))

    return look


_MAKERS: Final = {OURS: _ours, FLAT: _flat, MULTI: _multi}


def _interleaved(
    looks: dict[str, Look], queries: Hashes
) -> tuple[dict[str, list[float]], dict[str, dict[int, Found]]]:
    """Return the seconds and the answers of each: query by query, one after the other, the first ones not counted."""
    timer = SystemClock()
    times: dict[str, list[float]] = {name: [] for name in looks}
    answers: dict[str, dict[int, Found]] = {name: {} for name in looks}
    for look in looks.values():
        look(queries[0])
    for number, query_4 in enumerate(queries):
        for name, look in looks.items():
            if name == FLAT and number >= _FLAT_QUERIES:
                continue
            begin = timer.monotonic()
            answers[name][number] = look(query_4)
            times[name].append(timer.monotonic() - begin)
    return times, answers


def _row(num_hashes: int, name: str, built_s: float, times: list[float]) -> dict[str, Any]:
    p50, p99 = (float(np.quantile(times, q)) * 1e3 for q in (0.5, 0.99))
    return {
        "hashes": f"{num_hashes:,}",
        "index": name,
        "look-ups": len(times),
        "ms p50": p50,
        "ms p99": p99,
        "built in s": built_s,
    }
