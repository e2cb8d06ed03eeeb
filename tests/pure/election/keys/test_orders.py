"""The lock and the election's state as read from the keys, whatever they contain."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.consul.api import KVEntry
from sidecar.election.keys import lock, orders
from sidecar.election.keys.lock import Claim, ElectionLock, Ended
from sidecar.election.keys.orders import ElectionState, Kind, Order, Outcome, Pause, Proof

CLAIM = Claim("a", "s", "then", model_set="one")
ENDED = Claim("a", "s", "then", ended=Ended("done", 5.0, "b"))
ORDER = Order("o1", Kind.SWITCHOVER, 100.0, "me", "b", "a new rack")


def entry(key: str, value: bytes, session: str | None = None, index: int = 5) -> KVEntry:
    return KVEntry(key, value, session, index, 0)


HELD = entry(lock.lock_key("t"), lock.dumps(CLAIM), "s")
CHANGED = Claim("a", "s", "then", model_set="two")
RESTATED = entry(HELD.key, lock.dumps(CHANGED), "s")
EPOCH = entry(lock.epoch_key("t"), lock.dumps(CLAIM))


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], ElectionLock(None, None, 0, 7)),
        ([HELD, EPOCH], ElectionLock("s", "a", 5, 7, CLAIM, "one")),
        ([RESTATED, EPOCH], ElectionLock("s", "a", 5, 7, CHANGED, "one")),
        ([entry(HELD.key, lock.dumps(ENDED)), EPOCH], ElectionLock(None, None, 5, 7, ENDED)),
        ([entry(HELD.key, b"{}"), EPOCH], ElectionLock(None, None, 5, 7, CLAIM)),
        ([entry(HELD.key, HELD.value, "s2"), EPOCH], ElectionLock("s2", None, 5, 7, CLAIM)),
        ([HELD, entry(EPOCH.key, b"[garbage")], ElectionLock("s", None, 5, 7, CLAIM)),
        ([HELD, entry(EPOCH.key, b"[1]")], ElectionLock("s", None, 5, 7, CLAIM)),
        ([HELD], ElectionLock("s", None, 0, 7, CLAIM)),
        ([EPOCH], ElectionLock(None, None, 5, 7, CLAIM)),
    ],
    ids=[
        "nothing",
        "held",
        "held with another model set by now",
        "free",
        "no claim",
        "foreign",
        "garbage",
        "list",
        "no epoch",
        "no lock",
    ],
)
def test_reading_the_lock(entries: list[KVEntry], expected: ElectionLock) -> None:
    assert lock.read("t", entries, 7) == expected


def state(**values: bytes) -> ElectionState:
    found = [entry(lock.prefix("t") + name, value, index=3) for name, value in values.items()]
    return orders.read("t", found, 7)


def test_reading_the_state() -> None:
    proof, outcome = Proof("o1", "b", True, "", 101.0), Outcome("o0", False, "no", 90.0)
    pause = Pause(1.0, "me", until=200.0)
    read = state(
        order=lock.dumps(ORDER),
        proof=lock.dumps(proof),
        outcome=lock.dumps(outcome),
        pause=lock.dumps(pause),
    )
    assert (read.order, read.proof, read.outcome, read.pause) == (ORDER, proof, outcome, pause)
    assert read.order
    assert read.pause
    assert (read.order.index, read.pause.index) == (3, 3)
    assert read.garbage == ()
    assert read.proof_of(ORDER) == proof


def test_an_unreadable_value_is_reported_and_ignored() -> None:
    read = state(order=b"{}", proof=b"\xff", outcome=b"[]", pause=lock.dumps(Pause(1.0, "me")))
    assert (read.order, read.proof, read.outcome) == (None, None, None)
    assert read.pause == Pause(1.0, "me")
    keys = orders.order_key("t"), orders.proof_key("t"), orders.outcome_key("t")
    assert set(read.garbage) == set(keys)


@given(st.dictionaries(st.sampled_from(["lock", "epoch", "order", "proof", "pause"]), st.binary()))
def test_any_value_of_a_key_can_be_read(values: dict[str, bytes]) -> None:
    assert state(**values).lock.instance is None


@pytest.mark.parametrize(
    ("wall", "due"), [(99.9, False), (100.0, True), (159.9, True), (160, False)]
)
def test_an_order_is_due_until_it_expires(wall: float, due: bool) -> None:
    assert ORDER.due(wall) == due
    assert (state(order=lock.dumps(ORDER)).due(wall) == ORDER) == due


@pytest.mark.parametrize(
    ("ended", "due"),
    [
        (Ended("whatever is said", 5.0, "b", "o1"), True),
        (Ended(ORDER.sentence, 5.0, "b", "o2"), False),
        (Ended(ORDER.sentence, 5.0, "c", "o1"), False),
        (Ended(ORDER.sentence, 5.0, "b", ""), False),
        # As earlier versions write it, without the order's id.
        (Ended(ORDER.sentence, 5.0, "b"), True),
        (Ended(ORDER.sentence, 5.0, "c"), False),
        (Ended("it is ill", 5.0), False),
        (None, False),
    ],
)
def test_an_order_that_the_lock_was_released_for_is_due_on_every_clock(
    ended: Ended | None, due: bool
) -> None:
    last = Claim("a", "s", "then", ended=ended)
    for wall in (0.0, 1e12):
        assert (ElectionState(ElectionLock(last=last), ORDER).due(wall) == ORDER) == due
        assert ElectionState(ElectionLock("s2", "c", last=last), ORDER).due(wall) is None


def test_a_tenure_that_an_earlier_version_ended_names_no_order() -> None:
    text = b'{"instance":"a","session":"s","ended":{"why":"x","at":5.0,"to":"b"}}'
    found = lock.loads(Claim, text)
    assert found == Claim("a", "s", ended=Ended("x", 5.0, "b", None))


def test_fields_of_a_later_version_are_ignored() -> None:
    text = b'{"instance":"a","session":"s","ended":{"why":"x","at":5.0,"new":1},"new":{}}'
    assert lock.loads(Claim, text) == Claim("a", "s", ended=Ended("x", 5.0))


def test_an_order_from_a_stop_expires_sooner() -> None:
    assert Order("o", Kind.STOP, 100.0, "a").until == 115.0


@pytest.mark.parametrize(
    ("proof", "counts"),
    [
        (Proof("o1", "b", True, "", 0.0), True),
        (Proof("o1", "b", False, "ill", 0.0), True),
        (Proof("o2", "b", True, "", 0.0), False),
        (Proof("o1", "c", True, "", 0.0), False),
        (None, False),
    ],
)
def test_which_proofs_count(proof: Proof | None, counts: bool) -> None:
    assert (ElectionState(ElectionLock(), proof=proof).proof_of(ORDER) is not None) == counts


def test_a_pause_ends_automatically_or_by_resume() -> None:
    assert not ElectionState(ElectionLock()).paused(5.0)
    assert ElectionState(ElectionLock(), pause=Pause(1.0, "me")).paused(1e12)
    timed = ElectionState(ElectionLock(), pause=Pause(1.0, "me", until=10.0))
    assert [timed.paused(9.9), timed.paused(10.0)] == [True, False]


def test_the_outcome_of_an_order_is_read_from_the_history() -> None:
    assert ORDER.sentence == "switchover by me: a new rack"
    assert Order("o", Kind.FAILOVER, 0.0, "me").sentence == "failover by me"
