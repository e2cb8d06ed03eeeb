"""The same work for many files."""

import threading

import pytest

from sidecar.models.store import several

pytestmark = pytest.mark.files
LARGE = 2**30


def test_every_item_is_done_once() -> None:
    sizes = [1, LARGE, 3, LARGE + 1, 0]
    assert sorted(several.each(lambda size: size * 2, sizes, int)) == sorted(
        size * 2 for size in sizes
    )
    assert several.each(str, [], int) == []


def test_large_items_are_done_one_after_the_other() -> None:
    own = threading.current_thread()
    threads = several.each(lambda _: threading.current_thread(), [LARGE, LARGE], int)
    assert threads == [own, own]


def test_the_first_failure_ends_it() -> None:
    done = []

    def work(number: int) -> None:
        if number == 0:
            raise ValueError("first")
        done.append(number)

    with pytest.raises(ValueError, match="first"):
        several.each(work, [0, *range(1, 500), LARGE], int)
    assert LARGE not in done
