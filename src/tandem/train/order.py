"""The order of samples and all randomness: pure functions of seed, purpose and number, with no state to save."""

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

# NOTE: what is here decides which sample a step sees. A change makes another model of the same recipe.

_ROUNDS = 8  # of the Feistel network; 4 are enough for a random look, and small epochs deserve more
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # of splitmix64 (Vigna, public domain)


def generator(seed: int, purpose: str, counter: int) -> np.random.Generator:
    """The random numbers of one purpose at one place of a run, such as ("example", step * batch + slot).

    Philox with a key from seed and purpose. `counter` stands in the second of the four words that it counts with,
    so no two streams meet within 2**64 blocks.
    """
    key = np.frombuffer(hashlib.sha256(f"{seed}|{purpose}".encode()).digest(), dtype="<u8", count=2)
    place = np.array([0, counter, 0, 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=place))


class Order:
    """Which samples a step takes: epoch after epoch, each in an order of its own, which a key decides.

    Position `step * batch + slot` of the run is place `position % size` of epoch `position // size`, and a keyed
    permutation of that epoch's places says which sample that is. A step may begin in one epoch and end in the next.
    """

    def __init__(self, seed: int, size: int, batch: int) -> None:
        assert size > 0, "an epoch has samples"
        assert batch > 0, "a step has samples"
        self._seed = seed
        self._size = size
        self._batch = batch
        # A place is a pair (place // right, place % right) with left * right hardly more than size.
        self._right = math.isqrt(size - 1) + 1
        self._left = -(-size // self._right)

    def sample_ids(self, step: int) -> NDArray[np.int64]:
        """The samples of a step, int64[batch], each in [0, size); rank r of w takes the slots r::w."""
        assert step >= 0, "steps count from 0"
        positions = range(step * self._batch, (step + 1) * self._batch)
        first, last = positions[0] // self._size, positions[-1] // self._size
        keys = np.stack([self._keys(epoch) for epoch in range(first, last + 1)])
        from_first = np.arange(self._batch) + positions[0] % self._size
        keys = keys[from_first // self._size].T  # [rounds, batch]
        places = (from_first % self._size).astype(np.uint64)
        places = self._permuted(places, keys)
        while (outside := places >= self._size).any():  # walk on along the cycle until it comes back inside
            places[outside] = self._permuted(places[outside], keys[:, outside])
        return places.astype(np.int64)

    def _keys(self, epoch: int) -> NDArray[np.uint64]:
        """One key for each round, uint64[rounds]."""
        digest = hashlib.shake_256(f"{self._seed}|order|{epoch}".encode()).digest(8 * _ROUNDS)
        return np.frombuffer(digest, dtype="<u8").astype(np.uint64)

    def _permuted(self, places: NDArray[np.uint64], keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """A permutation of [0, left * right): each round adds to one half what its key makes of the other."""
        left, right = np.divmod(places, np.uint64(self._right))
        for number, key in enumerate(keys):
            if number % 2:
                right = (right + _mixed(left ^ key) % np.uint64(self._right)) % np.uint64(self._right)
            else:
                left = (left + _mixed(right ^ key) % np.uint64(self._left)) % np.uint64(self._left)
        return left * np.uint64(self._right) + right


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of splitmix64: every bit of a word decides about half of the bits of the outcome."""
    words = (words ^ (words >> np.uint64(30))) * _MIX[0]
    words = (words ^ (words >> np.uint64(27))) * _MIX[1]
    return words ^ (words >> np.uint64(31))
