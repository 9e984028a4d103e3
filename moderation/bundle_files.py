"""The files that a bundle may hold: which types, how each is told from an impostor, and what its bytes add up to.

Everything here refuses by `BundleRejected` and names the file and what to do. Nothing is deserialised into objects:
a bundle is data, never code.
"""

import hashlib
import json
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from moderation.errors import BundleRejected

ALLOWED_SUFFIXES: Final = (".onnx", ".safetensors", ".json", ".txt")
MAX_FILES: Final = 1_024
MAX_JSON_BYTES: Final = 64 * 2**20  # the tokenizer of a multilingual encoder takes 9 MB
_MAX_HEADER_BYTES: Final = 16 * 2**20
_MAX_MANIFEST_BYTES: Final = 4 * 2**20
_BLOCK_BYTES: Final = 2**20
_MAX_DEPTH: Final = 4

_SAFE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_REBUILD: Final = "build or fetch the bundle again; never repair it in place"

# Protobuf: field 1 of ModelProto (ir_version) is a varint, so its tag 0x08 opens every exported graph.
_ONNX_FIRST_BYTE: Final = b"\x08"
# A StringStringEntryProto whose key is "location": weights that lie in another file, which nothing here would verify.
_ONNX_EXTERNAL_DATA: Final = b"\x0a\x08location"

_BITS_OF_DTYPE: Final = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
}


@dataclass(frozen=True)
class TensorSpan:
    """Where one tensor of a safetensors file lies; offsets count from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def reject(name: str, what: str, remedy: str = _REBUILD) -> NoReturn:
    """Refuse a bundle because of one of its files, always in the same words."""
    raise BundleRejected(f"{name}: {what}; {remedy}")


def canonical_json(content: Any) -> bytes:
    """Return the one JSON spelling that digests are taken of: sorted keys, no spaces, ASCII, no NaN.

    >>> canonical_json({"b": 1, "a": [1.5, "x"]})
    b'{"a":[1.5,"x"],"b":1}'
    """
    return json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode("ascii")


def digest_of(content: Any) -> str:
    """Return the SHA-256 of the canonical JSON of `content`, in hexadecimal."""
    return hashlib.sha256(canonical_json(content)).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read in blocks so that memory stays flat."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_path(name: str) -> None:
    """Refuse a path that could leave the bundle's folder or is spelt in an odd way.

    Raises:
        BundleRejected: for absolute paths, `..`, backslashes, odd characters, too deep a path or a foreign type.
    """
    parts = name.split("/")
    if len(parts) > _MAX_DEPTH or not all(_SAFE_NAME.fullmatch(part) for part in parts):
        reject(repr(name[:200]), "is not a plain relative path below the bundle's folder")
    if Path(name).suffix not in ALLOWED_SUFFIXES:
        reject(name, f"this file type is not allowed in a bundle ({' '.join(ALLOWED_SUFFIXES)})")


def list_files(folder: Path, *, skip: frozenset[str] = frozenset()) -> dict[str, Path]:
    """Return every file below `folder` by its relative path.

    Args:
        folder: the root; it may itself be reached through a link, as mounted volumes are.
        skip: names in the root that are not looked into.

    Raises:
        BundleRejected: for symbolic links, devices, sockets, too many files, and paths that `check_path` refuses.
    """
    found: dict[str, Path] = {}
    for path in _walk(folder, folder, skip):
        name = path.relative_to(folder).as_posix()
        check_path(name)
        found[name] = path
        if len(found) > MAX_FILES:
            reject(name, f"the bundle holds more than {MAX_FILES} files")
    return found


def _walk(root: Path, folder: Path, skip: frozenset[str]) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        name = path.relative_to(root).as_posix()
        if name in skip:
            continue
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            if len(name.split("/")) >= _MAX_DEPTH:
                reject(name, "folders are nested too deep")
            yield from _walk(root, path, skip)
        elif stat.S_ISREG(mode):
            yield path
        else:
            reject(name, "is a link or a special file, not a regular file")


def read_json(path: Path, name: str, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Return the content of a JSON file, read strictly.

    Raises:
        BundleRejected: for a giant file, bad UTF-8, NaN, a key given twice, or anything that is not JSON.
    """
    if path.stat().st_size > max_bytes:
        reject(name, f"is larger than {max_bytes} bytes")
    try:
        return json.loads(
            path.read_bytes().decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
        )
    except (ValueError, RecursionError) as error:
        raise BundleRejected(f"{name}: is not strict JSON ({error}); {_REBUILD}") from error


def read_manifest(path: Path) -> Any:
    """Return the content of a manifest, which must be small."""
    if not path.is_file() or path.is_symlink():
        reject(path.name, f"is missing in {path.parent}", "name the folder of a built bundle")
    return read_json(path, path.name, max_bytes=_MAX_MANIFEST_BYTES)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key is given twice")
    return content


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number in JSON")


def check_content(path: Path, name: str) -> None:
    """Refuse a file whose bytes are not of the type that its name claims.

    Raises:
        BundleRejected: naming the file; types are told by suffix, see `ALLOWED_SUFFIXES`.
    """
    match path.suffix:
        case ".json":
            read_json(path, name)
        case ".txt":
            _check_text(path, name)
        case ".safetensors":
            read_tensor_header(path, name)
        case _:
            _check_onnx(path, name)


def _check_text(path: Path, name: str) -> None:
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            while block := stream.read(_BLOCK_BYTES):
                if "\x00" in block:
                    reject(name, "is binary, though its name says text")
    except UnicodeDecodeError as error:
        raise BundleRejected(f"{name}: is not UTF-8 text ({error.reason}); {_REBUILD}") from error


def _check_onnx(path: Path, name: str) -> None:
    tail = b""
    with path.open("rb") as stream:
        if stream.read(1) != _ONNX_FIRST_BYTE:
            reject(name, "is not an ONNX graph")
        while block := stream.read(_BLOCK_BYTES):
            if _ONNX_EXTERNAL_DATA in tail + block:
                reject(name, "keeps weights in another file", "export it with its weights inside")
            tail = block[-len(_ONNX_EXTERNAL_DATA) :]


def read_tensor_header(path: Path, name: str) -> dict[str, TensorSpan]:
    """Return where each tensor of a safetensors file lies, after checking that they fill the file exactly.

    Raises:
        BundleRejected: if lengths, types, shapes or offsets do not add up: the file is cut, padded or forged.

    Source:
        The safetensors format: 8 bytes little-endian header length, JSON header, tensors without gaps.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 10 or not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
            reject(name, "is not a safetensors file")
        raw = stream.read(length)
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
        header.pop("__metadata__", None)
        spans = {key: _span(entry, 8 + length) for key, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleRejected(f"{name}: its tensor header is wrong ({error}); {_REBUILD}") from error
    _check_gapless(spans, 8 + length, size, name)
    return spans


def _span(entry: Mapping[str, Any], data_begin: int) -> TensorSpan:
    begin, end = (int(offset) for offset in entry["data_offsets"])
    shape = tuple(int(extent) for extent in entry["shape"])
    bits = _BITS_OF_DTYPE[entry["dtype"]]
    if min(shape, default=0) < 0 or begin < 0:
        raise ValueError("a negative size")
    for extent in shape:
        bits *= extent
    if (end - begin) * 8 != bits:
        raise ValueError("a tensor's offsets do not fit its shape")
    return TensorSpan(str(entry["dtype"]), shape, data_begin + begin, data_begin + end)


def _check_gapless(spans: Mapping[str, TensorSpan], begin: int, size: int, name: str) -> None:
    for span in sorted(spans.values(), key=lambda span: (span.begin, span.end)):
        if span.begin != begin:
            reject(name, "its tensors overlap or leave a gap")
        begin = span.end
    if begin != size:
        reject(name, "it is cut short or has bytes after its last tensor")


def tensors_digest(
    path: Path, name: str, *, prefixes: tuple[str, ...], row_of: tuple[str, int]
) -> str:
    """Return the SHA-256 over chosen tensors of a file: names, types, shapes and bytes.

    Args:
        path: a safetensors file.
        name: how the file is called in errors.
        prefixes: what the names of the chosen tensors start with; each must find some.
        row_of: a tensor of which only this row counts.

    Raises:
        BundleRejected: if there is no such tensor or row, or the file is damaged.
    """
    spans = read_tensor_header(path, name)
    for prefix in (*prefixes, row_of[0]):
        if not any(key.startswith(prefix) for key in spans):
            reject(name, f"has no tensor {prefix}*", "export it with the heads of this version")
    chosen = {key: span for key, span in spans.items() if key.startswith(prefixes)}
    chosen[row_of[0]] = _row(spans[row_of[0]], row_of[1], name)
    total = hashlib.sha256()
    with path.open("rb") as stream:
        for key, span in sorted(chosen.items()):
            stream.seek(span.begin)
            content = hashlib.sha256(stream.read(span.end - span.begin)).hexdigest()
            total.update(canonical_json([key, span.dtype, list(span.shape), content]))
    return total.hexdigest()


def _row(span: TensorSpan, row: int, name: str) -> TensorSpan:
    if not span.shape or span.shape[0] <= row:
        reject(name, f"has a tensor without row {row}", "export it with the heads of this version")
    size = (span.end - span.begin) // span.shape[0]
    begin = span.begin + row * size
    return TensorSpan(span.dtype, span.shape[1:], begin, begin + size)
