"""Text to a vector by hashed character n-grams; NumPy only, no Triton in here.

The hashing trick of Weinberger et al., "Feature Hashing for Large Scale Multitask Learning"
(2009), without its signs: counts only add up, so no text can have a vector of length 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

DIM = 256
SIZES = (2, 3, 4)  # bytes per n-gram
MAX_TEXT = 1 << 20  # bytes; more would hold the model for longer than a demo should

_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, bits well spread: 2**64 divided by the golden ratio
_SHIFT = np.uint64(64 - DIM.bit_length() + 1)  # leaves the top bits: a number below DIM


def embed(text: str) -> npt.NDArray[np.float32]:
    """Return a vector of shape [DIM] and Euclidean length 1; upper and lower case are the same.

    Raises ValueError if `text` has more than MAX_TEXT bytes.
    """
    # Two marks, so that even an empty text has one n-gram, and beginnings and ends count.
    data = b"\x02" + text.casefold().encode() + b"\x03"
    if len(data) > MAX_TEXT + 2:
        raise ValueError(f"text: expected at most {MAX_TEXT} bytes of UTF-8, got {len(data) - 2}")
    symbols = np.frombuffer(data, dtype=np.uint8).astype(np.uint64)
    counts = np.zeros(DIM)
    for size in SIZES:
        counts += np.bincount(_buckets(symbols, size), minlength=DIM)
    vector: npt.NDArray[np.float32] = (counts / np.sqrt(np.square(counts).sum())).astype(np.float32)
    return vector


def _buckets(symbols: npt.NDArray[np.uint64], size: int) -> npt.NDArray[np.int64]:
    """Hash every n-gram of `size` symbols to 0..DIM-1, the same way on every machine."""
    number = max(len(symbols) - size + 1, 0)
    hashes = np.full(number, size, dtype=np.uint64)
    for offset in range(size):  # unsigned 64-bit arithmetic, meant to wrap
        hashes = (hashes ^ symbols[offset : offset + number]) * _BASE
        hashes ^= hashes >> np.uint64(29)
    return (hashes >> _SHIFT).astype(np.int64)
