"""Ways to spoil an input: of bytes, of text, of JSON and of the pieces that a file is made of."""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

_NUMBERS: Final = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\xff\xff", b"\xff\xff\xff\xff", bytes(4))

NASTY: Final = (
    "\u200b", "\u00ad", "\u0301", "\u0336", "\u0e31", "\u202e", "\ud800", "\udfff", "\x00", "\x1c", "\u3164", "\u034f",
    "\U0001d420", "\U0001f1e6", "\U000e0067", "ﷺ", "ﬃ", "İ", "ẞ", "ß", "ς", "ŉ", "ǰ", "ΐ", "K", "Å", "①", "㎏", "½",
    "а", "о", "р", "с", "ԛ", "ո", "Ꮐ", "ꓖ", "ο", "ν", "1", "0", "$", "@", "!", "|", "€", ".", "-", "_", "*", "·", " ",
    "枪", "が", "か\u3099", "ﾊﾞ", "คำ", "가", "\u1100\u1161", "क्ष", "ﻻ", "٣", "𝟛", "g", "u", "n", "\t", "\r\n", "\u2028",
    "\ufffd", "\uffff", "\U0010ffff", "\ufe0f", "\u115f", "\u05b0", "\u0670", "ᶦ", "ͅ", "\u0345", "\u1e9b\u0323",
)  # fmt: skip
"""Characters that have fooled normalisers: hidden, stacking, unfolding, look-alike, reordering, not Unicode."""

_VALUES: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 1e308, -0.0, 1e-320, 0.1, "", "x", "\x00", "😀", " ",
    [], {}, [[]], [{}], {"": ""}, "a" * 300, "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-11-22",
    "2026-11-22T10:00:00Z", 1763805600, "1763805600", "-", "é\u0301", "\u202e", "1e999", "NaN", [None] * 9,
)  # fmt: skip
_TOKENS: Final = (
    b"NaN",
    b"Infinity",
    b"1e999",
    b"-0",
    b"\\ud800",
    b"\\u0000",
    b"[" * 3_000,
    b'{"a":' * 3_000,
    b"1" * 400,
)


def of_bytes(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return a seed with a few changes: bits, bytes, runs cut, doubled, moved, or taken from another seed."""
    data = bytearray(rng.choice(seeds))
    for _ in range(1 + int(rng.expovariate(0.6))):
        _change(data, rng, seeds)
    return bytes(data)


def _change(data: bytearray, rng: random.Random, seeds: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    length = min(len(data) - at, int(rng.expovariate(1 / 12)))
    kind = rng.randrange(8)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1 and at < len(data):
        data[at] = rng.randrange(256)
    elif kind == 2:
        number = rng.choice(_NUMBERS)
        data[at : at + len(number)] = number
    elif kind == 3:
        del data[at : at + length]
    elif kind == 4:
        data[at:at] = data[at : at + length] * rng.randint(1, 20)
    elif kind == 5:
        data[at:at] = rng.randbytes(length)
    elif kind == 6:
        other = rng.choice(seeds)
        begin = rng.randrange(len(other) + 1)
        data[at : at + length] = other[begin : begin + length * 2]
    elif rng.random() < 0.3:
        del data[at:]


def of_text(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return a text in UTF-8, lone surrogates let through: words of seeds among characters that fool normalisers."""
    if rng.random() < 0.02:
        repeated = "".join(rng.choices(NASTY, k=rng.randint(1, 3)))
        return to_bytes((repeated * 20_300)[: rng.choice((300, 2_000, 20_300))])
    letters = list(to_text(rng.choice(seeds))) if rng.random() < 0.8 else []
    for _ in range(1 + int(rng.expovariate(0.15))):
        at = rng.randrange(len(letters) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            letters[at:at] = rng.choices(NASTY, k=rng.randint(1, 4))
        elif kind == 1:
            letters[at : at + 1] = [
                chr(
                    rng.choice((0x80, 0x3000, 0x10000, 0x110000)) * rng.random().__trunc__()
                    or rng.randrange(0x110000)
                )
            ]
        elif kind == 2:
            letters[at:at] = rng.choice(NASTY) * rng.randint(1, 40)
        elif kind == 3:
            del letters[at : at + rng.randint(1, 8)]
        else:
            letters[at:at] = letters[at : at + rng.randint(1, 12)]
    return to_bytes("".join(letters))


def to_text(data: bytes) -> str:
    """Return any bytes as text; what is not UTF-8 becomes lone surrogates."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "surrogateescape")


def to_bytes(text: str) -> bytes:
    """Return a text as bytes that `to_text` reads back."""
    return text.encode("utf-8", "surrogatepass")


def of_json(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return a JSON document of a seed with values replaced, members dropped, renamed or doubled."""
    data = rng.choice(seeds)
    if rng.random() < 0.25:
        return of_bytes(rng, seeds)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return of_bytes(rng, seeds)
    for _ in range(1 + int(rng.expovariate(0.8))):
        content = _changed(content, rng)
    spoiled = json.dumps(content).encode()
    if rng.random() < 0.1:
        at = rng.randrange(len(spoiled) + 1)
        spoiled = spoiled[:at] + rng.choice(_TOKENS) + spoiled[at:]
    return spoiled


def _changed(node: Any, rng: random.Random) -> Any:
    if isinstance(node, dict) and node and rng.random() < 0.9:
        key = rng.choice(list(node))
        kind = rng.randrange(6)
        if kind == 0:
            return {name: value for name, value in node.items() if name != key}
        if kind == 1:
            return {**node, rng.choice((*NASTY, "x" * 5_000, key.upper())): node[key]}
        return {**node, key: _changed(node[key], rng)}
    if isinstance(node, list) and node and rng.random() < 0.8:
        at = rng.randrange(len(node))
        kind = rng.randrange(4)
        if kind == 0:
            return node[:at] + node[at + 1 :]
        if kind == 1:
            return node + [node[at]] * rng.randint(1, 9)
        return [*node[:at], _changed(node[at], rng), *node[at + 1 :]]
    if isinstance(node, str) and rng.random() < 0.5:
        return to_text(of_text(rng, [to_bytes(node)]))
    return rng.choice(_VALUES)


def of_pieces(
    split: Callable[[bytes], list[bytes]], join: Callable[[list[bytes]], bytes]
) -> Callable[[random.Random, Sequence[bytes]], bytes]:
    """Return a mutation that drops, doubles, moves, swaps in and spoils whole pieces, such as the chunks of a PNG."""

    def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
        pieces, others = split(rng.choice(seeds)), split(rng.choice(seeds))
        for _ in range(1 + int(rng.expovariate(0.7))):
            at = rng.randrange(len(pieces) + 1)
            kind = rng.randrange(5)
            if kind == 0:
                pieces[at:at] = [rng.choice(others)] if others else []
            elif kind == 1 and pieces:
                pieces[at:at] = [pieces.pop(rng.randrange(len(pieces)))]
            elif kind == 2:
                pieces[at:at] = pieces[at : at + 1]
            elif kind == 3:
                del pieces[at : at + 1]
            elif at < len(pieces) and pieces[at]:
                pieces[at] = of_bytes(rng, [pieces[at]])
        return join(pieces)

    return mutate
