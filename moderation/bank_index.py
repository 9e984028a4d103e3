"""One immutable version of the banks: a folder of arrays, named by its own digest. Many processes share a large one.

N entries. A version is written once and never altered; to change it, build another one.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow.parquet
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moderation.bank_entries import Entries, read_entries
from moderation.errors import BankRejected
from moderation.files import sync
from moderation.hash_index import Band, Hashes, HashIndex, fill_tables, num_places, plan_bands
from moderation.pdq import MAX_DISTANCE, MIN_QUALITY

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
_ENTRIES: Final = "entries.parquet"
_ARRAYS: Final = ("hashes", "order", "starts", "ids", "banks", "policies", "is_enabled")
_UNFINISHED: Final = ".building-"
_MAPPED_FROM: Final = 64 * 2**20
"""Bytes of a version from which its arrays are mapped, some 500,000 entries. A smaller one is read, so that nothing on
the disk touches it: the system ends a process that reads a mapped page of a file that was cut."""

_SAMPLE: Final = 64
"""Entries that a verification looks up, each as it is and with as many bits flipped as the radius allows."""

_LOW_SHOWN: Final = 1_000
# A header that lies about its shape is believed until memory is asked for.
_UNREADABLE: Final = (OSError, ValueError, EOFError, MemoryError, OverflowError)
_REBUILD: Final = "build the version again from its entries file; never repair it in place"

Count = Annotated[int, Field(ge=0)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BankFacts(_Record):
    """A bank that a version holds."""

    name: str
    kind: Literal["match", "negative"]
    num_entries: Count


class FileFacts(_Record):
    """What a file of a version must add up to."""

    sha256: str
    num_bytes: Count


class Manifest(_Record):
    """What a version holds; its digest is the version's name."""

    format: Literal[1]
    radius: Count
    min_quality: Count
    num_entries: Annotated[int, Field(ge=1)]
    num_low_quality: Count
    """Entries of the file that no index holds, because their hash says nothing."""

    low_quality: tuple[str, ...]
    """The first 1,000 of them."""

    banks: tuple[BankFacts, ...]
    policies: tuple[str, ...]
    bands: tuple[Band, ...]
    files: dict[str, FileFacts]


@dataclass(frozen=True)
class _MappedFile:
    path: Path
    inode: int
    num_bytes: int

    def is_cut(self) -> bool:
        """Return whether this very file has another size; what is mapped of a removed or replaced one stays whole."""
        try:
            found = self.path.stat()
        except OSError:
            return False
        return found.st_ino == self.inode and found.st_size != self.num_bytes


@dataclass(frozen=True)
class BankIndex:
    """An open version; stays valid however many versions are activated or removed after it."""

    version: str
    manifest: Manifest
    index: HashIndex
    hashes_N4: Hashes
    ids_N: npt.NDArray[np.bytes_]
    """Sorted."""

    bank_N: npt.NDArray[np.uint16]
    policy_N: npt.NDArray[np.uint16]
    is_enabled_N: npt.NDArray[np.bool_]
    mapped: tuple[_MappedFile, ...]
    """Files that have to stay as they are; none of a small version, which is in memory."""

    def cut_file(self) -> Path | None:
        """Return a mapped file that has another size now: nobody may read its pages; None where all are whole."""
        return next((one.path for one in self.mapped if one.is_cut()), None)

    def rows_of(self, entry_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return the row of each entry, -1 where this version has no such entry."""
        wanted = np.array(entry_ids, np.bytes_)
        is_fitting = np.char.str_len(wanted) <= self.ids_N.itemsize
        # Of the ids' own type: another one would make numpy copy all of them.
        wanted = wanted.astype(self.ids_N.dtype)
        rows = np.minimum(np.searchsorted(self.ids_N, wanted), len(self.ids_N) - 1)
        return np.where(is_fitting & (self.ids_N[rows] == wanted), rows, -1)

    def kind_of(self, row: int) -> Literal["match", "negative"]:
        """Return whether an entry's bank holds known-bad or known-good images."""
        return self.manifest.banks[int(self.bank_N[row])].kind


def build_version(
    source: Path, versions: Path, policies: Collection[str], *, radius: int = MAX_DISTANCE
) -> str:
    """Write the version of an entries file below `versions` and return its name; the same entries, the same name.

    What is half built lies in a folder of another name, so that a crash leaves nothing that could be activated. A
    damaged version of the same entries makes way. Time: a sort of N per band, about a dozen; disk: about 150 bytes per
    entry plus the entries themselves. One build at a time, which `BankVersions` sees to.

    Args:
        source: entries as JSONL or Parquet.
        versions: folder of all versions.
        policies: ids that an entry may name.
        radius: bits that a match may differ in.

    Raises:
        BankRejected: if the entries are wrong, or the finished version does not verify.
    """
    entries = read_entries(source, policies)
    versions.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=versions))
    try:
        version = _write(entries, unfinished, radius)
        verify_version(unfinished, version)
        _put(unfinished, versions / version)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return version


def _put(unfinished: Path, final: Path) -> None:
    """Give a finished version its name; a damaged one of that name makes way, a whole one stays."""
    sync(unfinished)
    if final.exists():
        try:
            verify_version(final)
        except BankRejected:
            os.rename(final, unfinished.with_name(f"{unfinished.name}-damaged"))
        else:
            return
    os.rename(unfinished, final)
    sync(final.parent)


def sweep(versions: Path) -> None:
    """Remove what crashed builds left below `versions`; call it only while nobody builds."""
    for left in versions.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(left)


def _write(entries: Entries, folder: Path, radius: int) -> str:
    hashes_N4 = entries.hashes()
    num_entries = len(hashes_N4)
    bands = plan_bands(num_entries, radius)
    order_BN = _new(folder, "order", np.uint32, (len(bands), num_entries))
    starts = _new(folder, "starts", np.uint32, (num_places(bands),))
    fill_tables(hashes_N4, bands, order_BN, starts)
    order_BN.flush()
    starts.flush()
    banks, bank_N = _coded(entries, "bank")
    policies, policy_N = _coded(entries, "policy")
    arrays = {
        "hashes": hashes_N4,
        "ids": entries.table.column("entry_id").to_numpy().astype(np.bytes_),
        "banks": bank_N,
        "policies": policy_N,
        "is_enabled": entries.table.column("enabled").to_numpy(),
    }
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values, allow_pickle=False)
    pyarrow.parquet.write_table(entries.table, folder / _ENTRIES)
    manifest = Manifest(
        format=FORMAT,
        radius=radius,
        min_quality=MIN_QUALITY,
        num_entries=num_entries,
        num_low_quality=len(entries.low_quality),
        low_quality=entries.low_quality[:_LOW_SHOWN],
        banks=tuple(_bank_facts(entries, name, bank_N == code) for code, name in enumerate(banks)),
        policies=tuple(policies),
        bands=bands,
        files={path.name: _file_facts(path) for path in sorted(folder.iterdir())},
    )
    return _seal(folder, manifest)


def _seal(folder: Path, manifest: Manifest) -> str:
    content = json.dumps(manifest.model_dump(mode="json"), sort_keys=True, indent=1).encode()
    (folder / MANIFEST).write_bytes(content)
    for path in folder.iterdir():
        sync(path)
        path.chmod(0o444)
    return hashlib.sha256(content).hexdigest()


def _new(folder: Path, name: str, kind: type, shape: tuple[int, ...]) -> "np.memmap[Any, Any]":
    array: np.memmap[Any, Any] = np.lib.format.open_memmap(
        folder / f"{name}.npy", mode="w+", dtype=kind, shape=shape
    )
    return array


def _coded(entries: Entries, column: str) -> tuple[list[str], npt.NDArray[np.uint16]]:
    names, code_N = np.unique(
        entries.table.column(column).to_numpy().astype(str), return_inverse=True
    )
    if len(names) > np.iinfo(np.uint16).max:
        raise BankRejected(f"{len(names)} values of {column}; a version takes 65,535")
    return names.tolist(), code_N.astype(np.uint16)


def _bank_facts(entries: Entries, name: str, is_own_N: npt.NDArray[np.bool_]) -> BankFacts:
    first = int(np.flatnonzero(is_own_N)[0])
    kind = entries.table.column("kind")[first].as_py()
    return BankFacts(name=name, kind=kind, num_entries=int(is_own_N.sum()))


def _file_facts(path: Path) -> FileFacts:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileFacts(sha256=digest, num_bytes=path.stat().st_size)


def open_version(folder: Path, version: str | None = None) -> BankIndex:
    """Return a version in memory: a large one is mapped, at once whatever its size and shared with every other process.

    The manifest's digest and every file's size and shape are checked here; the files' digests by `verify_version`,
    which activation calls.

    Args:
        folder: the version's folder.
        version: its name, where the folder does not bear it yet.

    Raises:
        BankRejected: if the version is absent or damaged.
    """
    version = version or folder.name
    manifest = _manifest(folder, version)
    arrays, mapped = _arrays(folder, manifest)
    index = HashIndex(
        arrays["hashes"], arrays["order"], arrays["starts"], manifest.bands, manifest.radius
    )
    return BankIndex(
        version,
        manifest,
        index,
        arrays["hashes"],
        arrays["ids"],
        arrays["banks"],
        arrays["policies"],
        arrays["is_enabled"],
        mapped,
    )


def _manifest(folder: Path, version: str) -> Manifest:
    try:
        content = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise BankRejected(f"{folder}: is no version of the banks: {error}; {_REBUILD}") from error
    if hashlib.sha256(content).hexdigest() != version:
        raise BankRejected(f"{folder}: {MANIFEST} was altered; {_REBUILD}")
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise BankRejected(f"{folder}: {MANIFEST} has another format; {_REBUILD}") from error


def _arrays(
    folder: Path, manifest: Manifest
) -> tuple[dict[str, npt.NDArray[Any]], tuple[_MappedFile, ...]]:
    for name, facts in manifest.files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != facts.num_bytes:
            raise BankRejected(f"{path}: is missing or has another size; {_REBUILD}")
    paths = {name: folder / f"{name}.npy" for name in _ARRAYS}
    num_bytes = sum(path.stat().st_size for path in paths.values())
    mode: Literal["r"] | None = "r" if num_bytes >= _MAPPED_FROM else None
    arrays = {}
    for name, path in paths.items():
        try:
            array = np.load(path, mmap_mode=mode, allow_pickle=False)
        except _UNREADABLE as error:
            raise BankRejected(f"{path}: cannot be read; {_REBUILD}") from error
        array.flags.writeable = False
        arrays[name] = array.view(np.ndarray)
    _check_shapes(folder, manifest, arrays)
    if mode is None:
        return arrays, ()
    mapped = ((path, path.stat().st_ino) for path in paths.values())
    return arrays, tuple(
        _MappedFile(path, inode, manifest.files[path.name].num_bytes) for path, inode in mapped
    )


def _check_shapes(folder: Path, manifest: Manifest, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    num, bands = manifest.num_entries, manifest.bands
    wanted = {
        "hashes": (np.dtype(np.uint64), (num, 4)),
        "order": (np.dtype(np.uint32), (len(bands), num)),
        "starts": (np.dtype(np.uint32), (num_places(bands),)),
        "ids": (arrays["ids"].dtype, (num,)),
        "banks": (np.dtype(np.uint16), (num,)),
        "policies": (np.dtype(np.uint16), (num,)),
        "is_enabled": (np.dtype(np.bool_), (num,)),
    }
    for name, (kind, shape) in wanted.items():
        if (arrays[name].dtype, arrays[name].shape) != (kind, shape):
            raise BankRejected(f"{folder / name}.npy: has another type or shape; {_REBUILD}")


def verify_version(folder: Path, version: str | None = None) -> Manifest:
    """Return the manifest of a version of which every byte, every count and a sample of look-ups is as it should be.

    Time: one reading of all files.

    Args:
        folder: the version's folder.
        version: its name, where the folder does not bear it yet.

    Raises:
        BankRejected: naming the file or the entry that is wrong, and what to do.
    """
    opened = open_version(folder, version)
    manifest = opened.manifest
    foreign = {path.name for path in folder.iterdir()} - {*manifest.files, MANIFEST}
    if foreign:
        raise BankRejected(
            f"{folder}: holds files that are not its own: {sorted(foreign)}; {_REBUILD}"
        )
    for name, facts in manifest.files.items():
        if _file_facts(folder / name) != facts:
            raise BankRejected(f"{folder / name}: was altered; {_REBUILD}")
    _check_counts(folder, opened)
    _check_sample(folder, opened)
    return manifest


def _check_counts(folder: Path, opened: BankIndex) -> None:
    manifest = opened.manifest
    counts = np.bincount(opened.bank_N, minlength=len(manifest.banks)).tolist()
    rows = pyarrow.parquet.ParquetFile(folder / _ENTRIES).metadata.num_rows
    if counts != [bank.num_entries for bank in manifest.banks] or rows != manifest.num_entries:
        raise BankRejected(f"{folder}: has another number of entries than it says; {_REBUILD}")


def _check_sample(folder: Path, opened: BankIndex) -> None:
    radius = opened.manifest.radius
    draw = np.random.default_rng(opened.manifest.num_entries)
    for row in draw.integers(opened.manifest.num_entries, size=_SAMPLE).tolist():
        flips = np.zeros(256, np.uint8)
        flips[draw.choice(256, radius, replace=False)] = 1
        for apart, flip in ((0, np.zeros(256, np.uint8)), (radius, flips)):
            wanted = opened.hashes_N4[row] ^ np.packbits(flip).view(np.uint64)
            rows, distances = opened.index.search(wanted)
            if apart not in distances[rows == row]:
                entry = opened.ids_N[row].decode()
                raise BankRejected(f"{folder}: does not find its own entry {entry}; {_REBUILD}")
