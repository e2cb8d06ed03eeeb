"""The keys of drills, as this version and others write them."""

from hypothesis import given
from hypothesis import strategies as st

from sidecar.consul.api import KVEntry
from sidecar.election.keys import history, lock
from sidecar.election.keys.history import DrillEntry, Entry
from sidecar.injection import keys
from sidecar.injection.keys import Answer, DrillKeys, LastDrill, Order

ORDER = Order("d1", "jane@desk", 1.0, "freeze", "a", "freeze", 30.0)


def entry(key: str, value: object, session: str | None = None) -> KVEntry:
    text = value if isinstance(value, bytes) else lock.dumps(value)
    return KVEntry(key, text, session, 7, 0, 7)


def test_what_is_written_is_read() -> None:
    answer = Answer("d1", "a", "injected", 2.0, seconds=30.0, fault="freeze")
    last = LastDrill("d0", "crash", "b", "joe@desk", 0.0, 9.0)
    found = keys.read(
        "t",
        [
            entry(keys.order_key("t"), ORDER, "s"),
            entry(keys.answer_key("t", "a"), answer),
            entry(keys.last_key("t"), last),
        ],
    )
    assert found == DrillKeys(ORDER, "s", (answer,), last)
    assert found.running == ORDER
    assert found.answer_of("a", "d1") == found.newest_of("a") == answer
    assert found.answer_of("a", "d0") is None
    assert found.answer_of("b", "d1") is None


@given(st.binary(max_size=40))
def test_what_cannot_be_read_is_nothing(garbage: bytes) -> None:
    places = keys.order_key("t"), keys.answer_key("t", "a"), keys.last_key("t")
    found = keys.read("t", [entry(place, garbage, "s") for place in places])
    assert (found.running, found.answers, found.last) == (None, (), None)


def test_a_field_of_a_later_version_is_ignored() -> None:
    text = lock.dumps(ORDER).replace(b'"by"', b'"later": [1], "by"')
    assert keys.read("t", [entry(keys.order_key("t"), text, "s")]).running == ORDER


def test_earlier_versions_ignore_a_drill_in_the_history() -> None:
    """They read every entry as a change of the role, and leave out what is none."""
    drill = DrillEntry("d1", "freeze", "freeze", "a", "jane@desk", "2026-11-01T00:00:00.000Z")
    moved = Entry("2026-11-02T00:00:00.000Z", "b", "the lock was free", epoch=7)
    written = [
        entry(history.drill_key("t", drill), drill),
        entry(history.key("t", moved), moved),
    ]
    assert history.read("t", written) == (moved,)
    assert history.read_drills("t", written) == (drill,)
