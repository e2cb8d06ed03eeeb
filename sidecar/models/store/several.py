"""Does the same for many files: small ones several at once, because each waits for the disk.

Acts: through what it is given.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_SMALL = 2**20  # bytes
_AT_ONCE = 8


def each(work: Callable[[T], R], items: Iterable[T], size: Callable[[T], int]) -> list[R]:
    """The results of the work for each item, in any order.

    Args:
        work: is called in several threads for small items, and in this one for others.
        items: what the work is for.
        size: the bytes of an item.

    Raises:
        Exception: what the work raised first; what has not begun then is not begun.
    """
    small: list[T] = []
    large: list[T] = []
    for item in items:
        (small if size(item) < _SMALL else large).append(item)
    pool = ThreadPoolExecutor(_AT_ONCE, "store-files")
    try:
        futures = [pool.submit(work, item) for item in small]
        done = [future.result() for future in futures]
    finally:
        pool.shutdown(cancel_futures=True)
    return [*done, *map(work, large)]
