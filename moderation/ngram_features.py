"""Hashed n-gram features of texts: the same numbers in every process and on every machine, without a vocabulary.

A position of a batch's joined text is one code point; an n-gram's hash is the difference of two
prefix sums, so that all n-grams of a batch cost a few vector operations. All arithmetic is modulo
2**64 and exact.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

from moderation.text import SIGNS, NgramText

HASH_BITS: Final = 20
"""log2 of the number of buckets: some 100,000 are used, so that one in ten unseen n-grams collides."""

MAX_CHARS: Final = 24_000
"""Characters read of one text: above the limits of a listing, a bound for anything else."""

_ORDERS: Final = (2, 3, 4, 5)
_CHUNK_CHARS: Final = 200_000  # some 60 MB of intermediate arrays
_SPACE: Final = ord(" ")

_U64 = npt.NDArray[np.uint64]
_Placed = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], _U64]
# An odd multiplier is invertible modulo 2**64; these are splitmix64's constants.
_BASE: Final = 0x9E3779B97F4A7C15
_INVERSE: Final = pow(_BASE, -1, 2**64)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)

_SALT_CHARS: Final = 1
_SALT_WORD: Final = 3
_SALT_WORD_PAIR: Final = 4
_SALT_PAIR: Final = 5
_SALT_SIGN: Final = 6

_NUM_BINS: Final = 8  # of a sign that is there; bin 0 is its absence
_CODES: Final = np.uint64(64)  # room for the bins of one fact
_IS_THERE: Final = np.uint64(32)  # above every bin


def hash_features(texts: Sequence[NgramText]) -> sparse.csr_matrix:
    """Return the features of each listing as a sparse matrix of 2**HASH_BITS columns.

    A column is present or not: repeating a word does not raise it. Four blocks of unit length
    stand side by side: character n-grams that either form holds, words and word pairs of the folded form,
    what the pair of forms tells (lengths, digits, how much folding changed), and the signs that
    were measured on the raw text, which neither form shows any more.

    Args:
        texts: per listing, as training and serving both make them by `ngram_texts`.

    Raises:
        ValueError: if a listing does not bring one sign per name of `SIGNS`.
    """
    parts = [_hash_chunk(chunk) for chunk in _chunks(texts)]
    if not parts:
        return sparse.csr_matrix((0, 2**HASH_BITS), dtype=np.float32)
    return sparse.vstack(parts, format="csr")


@dataclass(frozen=True)
class PlacedFeatures:
    """Where one form of one text shows features: occurrences of n-grams or of words, G of them."""

    bucket_G: npt.NDArray[np.int64]
    begin_G: npt.NDArray[np.int64]
    end_G: npt.NDArray[np.int64]


def placed_features(form: str, *, of_words: bool) -> PlacedFeatures:
    """Return every occurrence of what `hash_features` takes from one form of one listing, with its place.

    Args:
        form: as it looks or as it is meant.
        of_words: words and pairs of words, else n-grams of characters.
    """
    joined = _Joined.of([form[:MAX_CHARS]])
    parts = list(joined.placed_words() if of_words else joined.placed_grams())
    begin_G, end_G, hash_G = (np.concatenate(column) for column in zip(*parts, strict=True))
    bucket_G = (hash_G >> np.uint64(64 - HASH_BITS)).astype(np.int64)
    last = min(len(form), MAX_CHARS)  # a space stands before the text, one after it
    return PlacedFeatures(bucket_G, np.clip(begin_G - 1, 0, last), np.clip(end_G - 1, 0, last))


def _chunks(texts: Sequence[NgramText]) -> Iterator[Sequence[NgramText]]:
    begin = num_chars = 0
    for index, text in enumerate(texts):
        num_chars += min(len(text.normalised), MAX_CHARS) + min(len(text.folded), MAX_CHARS)
        if num_chars >= _CHUNK_CHARS:
            yield texts[begin : index + 1]
            begin, num_chars = index + 1, 0
    if begin < len(texts):
        yield texts[begin:]


def _hash_chunk(texts: Sequence[NgramText]) -> sparse.csr_matrix:
    normalised = _Joined.of([text.normalised[:MAX_CHARS] for text in texts])
    folded = _Joined.of([text.folded[:MAX_CHARS] for text in texts])
    chars = [*normalised.grams(), *folded.grams()]  # of an honest text both are the same set
    blocks = [chars, folded.words(), [_pair_facts(texts)], [_signs(texts)]]
    keys, values = zip(*(_unit_block(block, len(texts)) for block in blocks), strict=True)
    key = np.concatenate(keys)
    order = np.argsort(key, kind="stable")  # one fixed order of sums for each row
    row, bucket = (key[order] >> np.uint64(HASH_BITS)), key[order] & np.uint64(2**HASH_BITS - 1)
    start = np.searchsorted(row, np.arange(len(texts) + 1, dtype=np.uint64))
    data = np.concatenate(values)[order]
    shape = (len(texts), 2**HASH_BITS)
    return sparse.csr_matrix(
        (data, bucket.astype(np.int32), start.astype(np.int32)), shape=shape, copy=False
    )


def _unit_block(
    parts: Sequence[tuple[npt.NDArray[np.int64], _U64]], num_rows: int
) -> tuple[_U64, npt.NDArray[np.float32]]:
    """Return the distinct (row, bucket) keys of a block and their values, of unit length per row."""
    shift = np.uint64(HASH_BITS)
    packed = [
        (row.astype(np.uint64) << shift) | (hashed >> np.uint64(64 - HASH_BITS))
        for row, hashed in parts
    ]
    key = np.sort(np.concatenate(packed))
    key = key[np.concatenate([np.ones(1, bool), key[1:] != key[:-1]])[: len(key)]]
    row = (key >> shift).astype(np.int64)
    num_K = np.bincount(row, minlength=num_rows)
    return key, (1.0 / np.sqrt(num_K[row])).astype(np.float32)


@dataclass(frozen=True)
class _Joined:
    """Many texts as one array of code points, each between spaces and closed by a zero."""

    codes: npt.NDArray[np.uint32]
    row: npt.NDArray[np.int64]
    prefix: _U64
    inverse: _U64
    num_zeros: npt.NDArray[np.int64]
    """Closing zeros before each position: a span that crosses one belongs to two texts."""

    @classmethod
    def of(cls, texts: Sequence[str]) -> "_Joined":
        joined = "".join(f" {text.replace(chr(0), ' ')} \0" for text in texts)
        codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
        num_zeros = np.concatenate([[0], np.cumsum(codes == 0)]).astype(np.int64)
        powers = np.cumprod(np.full(len(codes), _BASE, np.uint64), dtype=np.uint64)
        inverse = np.cumprod(np.full(len(codes), _INVERSE, np.uint64), dtype=np.uint64)
        terms = _mix(codes.astype(np.uint64)) * powers
        prefix = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
        return cls(codes, num_zeros[:-1], prefix, inverse, num_zeros)

    def grams(self) -> Iterator[tuple[npt.NDArray[np.int64], _U64]]:
        """Yield (row, hash) of every n-gram of each order."""
        for begin, _, hashed in self.placed_grams():
            yield self.row[begin], hashed

    def placed_grams(self) -> Iterator[_Placed]:
        """Yield (begin, end, hash) of every n-gram of each order."""
        for order in _ORDERS:
            begin = np.arange(max(0, len(self.codes) - order + 1))
            begin = begin[self.num_zeros[begin] == self.num_zeros[begin + order]]
            hashed = self._span_hash(begin, begin + order, _SALT_CHARS * 16 + order)
            yield begin, begin + order, hashed

    def words(self) -> list[tuple[npt.NDArray[np.int64], _U64]]:
        """Return (row, hash) of every word, and of every two neighbours in one text."""
        return [(self.row[begin], hashed) for begin, _, hashed in self.placed_words()]

    def placed_words(self) -> list[_Placed]:
        """Return (begin, end, hash) of every word, and of every two neighbours in one text."""
        is_gap = self.codes <= _SPACE
        begin = np.flatnonzero(is_gap[:-1] & ~is_gap[1:]) + 1
        end = np.flatnonzero(~is_gap[:-1] & is_gap[1:]) + 1
        row = self.row[begin]
        paired = np.flatnonzero(row[:-1] == row[1:]) if len(row) else np.zeros(0, np.int64)
        singles = self._span_hash(begin, end, _SALT_WORD * 16)
        pairs = self._span_hash(begin[paired], end[paired + 1], _SALT_WORD_PAIR * 16)
        return [(begin, end, singles), (begin[paired], end[paired + 1], pairs)]

    def _span_hash(
        self, begin: npt.NDArray[np.int64], end: npt.NDArray[np.int64], salt: int
    ) -> _U64:
        """Return the hash of each span of code points, the same wherever it stands."""
        spans = (self.prefix[end] - self.prefix[begin]) * self.inverse[begin]
        return _mix(spans ^ np.uint64(salt * _BASE % 2**64))


def _mix(values: _U64) -> _U64:
    """Return splitmix64's finaliser of each value."""
    values = (values ^ (values >> np.uint64(30))) * _MIX_1
    values = (values ^ (values >> np.uint64(27))) * _MIX_2
    mixed: _U64 = values ^ (values >> np.uint64(31))
    return mixed


def _pair_facts(texts: Sequence[NgramText]) -> tuple[npt.NDArray[np.int64], _U64]:
    """Return what the two forms of each text tell together, as binned pseudo-words."""
    bins = [_pair_bins(text.normalised[:MAX_CHARS], text.folded[:MAX_CHARS]) for text in texts]
    return _pseudo_words(np.array(bins, np.uint64).reshape(len(texts), -1), _SALT_PAIR)


def _pair_bins(normalised: str, folded: str) -> tuple[int, int, int, int]:
    """Return bins (0..20) of length, share of digits, share of words changed, share of letters joined."""
    length = max(1, len(normalised))
    before, after = normalised.split(), set(folded.split())
    changed = sum(word not in after for word in before) / max(1, len(before))
    digits = sum(map(str.isdigit, normalised)) / length
    joined = max(0.0, 1 - len(folded) / length)
    return length.bit_length(), int(digits * 20), int(changed * 20), int(joined * 20)


def _signs(texts: Sequence[NgramText]) -> tuple[npt.NDArray[np.int64], _U64]:
    """Return each sign of the raw text as two pseudo-words: whether it is there, and how much.

    Bins halve downwards from 1, so that the faintest trace differs from none; an amount that
    training never showed still counts as being there.
    """
    signs_NS = np.array([text.signs for text in texts], np.float64).reshape(len(texts), len(SIGNS))
    exponent_NS = np.frexp(signs_NS)[1]  # exact: 1 gives 1, [1/2, 1) gives 0, and so on downwards
    is_there_NS = signs_NS > 0
    bin_NS = np.clip(exponent_NS + _NUM_BINS - 1, 1, _NUM_BINS) * is_there_NS
    codes = np.stack([bin_NS.astype(np.uint64), _IS_THERE + is_there_NS.astype(np.uint64)], axis=2)
    return _pseudo_words(codes.reshape(len(texts), -1), _SALT_SIGN)


def _pseudo_words(codes_NF: _U64, salt: int) -> tuple[npt.NDArray[np.int64], _U64]:
    """Return (row, hash) of every fact; the same code of two facts is two words."""
    num_rows, num_facts = codes_NF.shape
    codes_NF = codes_NF + np.arange(num_facts, dtype=np.uint64) * _CODES
    row = np.repeat(np.arange(num_rows), num_facts)
    return row, _mix(_mix(codes_NF.ravel()) ^ np.uint64(salt * _BASE % 2**64))
