"""The history as read from the keys, and how it is trimmed."""

from hypothesis import given
from hypothesis import strategies as st

from sidecar.consul.api import KVEntry
from sidecar.election.keys import history, lock
from sidecar.election.keys.history import Entry

FIRST = Entry("2026-01-01T00:00:00.000Z", "a", "it was first")
SECOND = Entry("2026-01-02T00:00:00.000Z", "b", "a was ill", by="a", failed=0)


def record(entry: Entry, epoch: int, changed: int = 0) -> KVEntry:
    return KVEntry(history.key("t", entry), lock.dumps(entry), None, changed or epoch, 0, epoch)


def test_entries_are_read_in_the_order_of_their_epochs() -> None:
    foreign = KVEntry("triton-sidecar/u/history/x", lock.dumps(FIRST), None, 1, 0, 1)
    garbage = KVEntry(history.prefix("t") + "x", b"{", None, 1, 0, 1)
    found = history.read("t", [record(SECOND, 8, 9), foreign, garbage, record(FIRST, 5)])
    assert found == (FIRST, SECOND)
    assert [entry.epoch for entry in found] == [5, 8]  # what was added later changes no epoch


def test_keys_sort_by_time_and_differ_by_instance() -> None:
    assert history.key("t", FIRST) < history.key("t", SECOND)
    assert history.key("t", FIRST).startswith(history.prefix("t"))


def numbered(count: int) -> list[KVEntry]:
    return [KVEntry(f"{history.prefix('t')}{n}", b"", None, n + 7, 0, n) for n in range(count)]


@given(st.integers(0, 200), st.integers(0, 100))
def test_the_oldest_entries_are_removed_and_the_newest_stay(count: int, kept: int) -> None:
    entries = numbered(count)
    left = entries[:: -1 if count % 2 else 1]
    while surplus := history.surplus(left, kept):
        assert len(surplus) <= 60  # of the 64 operations that Consul takes in one transaction
        gone = {each.key: each.index for each in surplus}
        assert all(gone.get(each.key, each.modify_index) == each.modify_index for each in left)
        left = [each for each in left if each.key not in gone]
    assert sorted(each.create_index for each in left) == list(range(max(0, count - kept), count))


def test_a_short_history_is_not_trimmed() -> None:
    assert history.surplus(numbered(history.KEPT)) == ()
