"""Counter-based random numbers: the same (seed, counters) give the same number, whatever was drawn before.

Sampling an action must not depend on which rows happened to share its batch, or a run that was killed and resumed
would take another course. So every random decision is a pure function of named integers.
The mixing function is SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)


def seed_of(*parts: object) -> int:
    """A 63-bit seed from any printable parts, stable over processes and machines."""
    digest = hashlib.blake2b("\x1f".join(str(part) for part in parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        values = values + _GOLDEN
        values = (values ^ (values >> np.uint64(30))) * _M1
        values = (values ^ (values >> np.uint64(27))) * _M2
        return values ^ (values >> np.uint64(31))


def uniforms(seeds: ArrayLike, counter: ArrayLike) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), one for each broadcast pair of ``seeds`` and ``counter`` (non-negative integers)."""
    mixed = _mix(_mix(np.asarray(seeds, dtype=np.uint64)) ^ np.asarray(counter, dtype=np.uint64))
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
