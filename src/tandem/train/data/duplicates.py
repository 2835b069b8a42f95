"""Near-duplicates by MinHash: word 5-grams, 128 permutations, and bands that find those alike without comparing all."""

import hashlib
import re
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

# NOTE: what is here decides which records a data set has. A change makes another data set of the same source.

PERMUTATIONS = 128
FEW_WORDS = 20
"""Records with fewer words are compared as a whole only: `2 + 2 = 4` is alike to much, and a copy of nothing."""

_GRAM = 5
_RECALL = 0.99  # chance that two records exactly at the threshold share a band
_WORD = re.compile(r"\w+")
_MAX_WORDS = 2**20  # whose hashes are remembered
_AT_ONCE = 512  # 5-grams: 128 x 512 products of 8 bytes fit a core's own cache
_ODD = np.uint64(0x9E3779B97F4A7C15)


class _Hashes(dict[str, int]):
    """64 bits for each word, remembered."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _MAX_WORDS:
            self.clear()
        digest = hashlib.blake2b(word.encode("utf-8", errors="replace"), digest_size=8).digest()
        value = int.from_bytes(digest, "little")
        self[word] = value
        return value


class NearDuplicates:
    """The records so far, of which a new one may be a near copy.

    `threshold` is the least Jaccard similarity of the sets of 5-grams at which two records are one, as estimated
    from the share of permutations under which both sets have the same minimum.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._rows = band_rows(threshold)
        self._hashes = _Hashes()
        self._signatures = np.empty((1024, PERMUTATIONS), dtype=np.uint32)
        self._count = 0
        self._buckets: defaultdict[bytes, list[int]] = defaultdict(list)
        factors = np.frombuffer(hashlib.shake_256(b"tandem minhash").digest(16 * PERMUTATIONS), dtype="<u8")
        self._factors = factors[:PERMUTATIONS, None] | np.uint64(1)
        self._offsets = factors[PERMUTATIONS:, None]

    def seen(self, text: str) -> bool:
        """Whether one of the records so far is alike; if none is, this one is remembered."""
        words = _WORD.findall(text)
        if len(words) < FEW_WORDS:
            return False
        signature = self._signature(words)
        bands = self._bands(signature)
        near = sorted({place for band in bands for place in self._buckets.get(band, ())})
        if near and float((self._signatures[near] == signature).mean(axis=1).max()) >= self._threshold:
            return True
        self._remember(signature, bands)
        return False

    def similarity(self, one: str, other: str) -> float:
        """The estimated similarity of two texts."""
        pair = [self._signature(_WORD.findall(text)) for text in (one, other)]
        return float((pair[0] == pair[1]).mean())

    def _signature(self, words: list[str]) -> NDArray[np.uint32]:
        """The least hash of the 5-grams under each permutation, uint32[128]."""
        hashes = np.fromiter(map(self._hashes.__getitem__, words), dtype=np.uint64, count=len(words))
        count = max(1, len(hashes) - _GRAM + 1)
        grams = np.zeros(count, dtype=np.uint64)
        for place in range(min(_GRAM, len(hashes))):
            grams = grams * _ODD + hashes[place : place + count]
        grams ^= grams >> np.uint64(31)
        grams *= _ODD
        grams = np.unique(grams >> np.uint64(32))
        least = np.full(PERMUTATIONS, np.iinfo(np.uint64).max, dtype=np.uint64)
        for begin in range(0, len(grams), _AT_ONCE):
            products = self._factors * grams[begin : begin + _AT_ONCE]
            products += self._offsets
            np.minimum(least, products.min(axis=1), out=least)
        return (least >> np.uint64(32)).astype(np.uint32)

    def _bands(self, signature: NDArray[np.uint32]) -> list[bytes]:
        count = PERMUTATIONS // self._rows
        return [
            bytes([band]) + signature[band * self._rows : (band + 1) * self._rows].tobytes() for band in range(count)
        ]

    def _remember(self, signature: NDArray[np.uint32], bands: list[bytes]) -> None:
        if self._count == len(self._signatures):
            self._signatures = np.concatenate([self._signatures, np.empty_like(self._signatures)])
        self._signatures[self._count] = signature
        for band in bands:
            self._buckets[band].append(self._count)
        self._count += 1


def band_rows(threshold: float) -> int:
    """Rows of a band: as many as still let records at the threshold meet in a band with a chance of 99 %."""
    rows = 1
    while rows < PERMUTATIONS and _meeting(threshold, rows + 1) >= _RECALL:
        rows += 1
    return rows


def _meeting(similarity: float, rows: int) -> float:
    """The chance that two records of this similarity are equal in one of the bands."""
    return float(1 - (1 - similarity**rows) ** (PERMUTATIONS // rows))
