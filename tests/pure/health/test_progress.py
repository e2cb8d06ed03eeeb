from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.health.canary.definition import Budgets, Canary
from sidecar.health.neighbours import HeldUp
from sidecar.health.progress import (
    Counted,
    Loads,
    Progress,
    Traffic,
    after_reading,
    after_sending,
    answered,
    by_name,
    pace,
    traffic_finding,
    unanswered,
)
from sidecar.settings.tables.health import HealthSettings
from sidecar.triton.api import Answer, Statistics
from sidecar.verdict.evidence import Finding, Layer, Level, Reason

CANARY = Canary("chat", ({},), (), timeout=2.0)
SEEN = Counted(work=7)


def late(progress: Progress, now: float, since: float = 100.0) -> Reason:
    return unanswered(CANARY, since, 10.0, progress, now).reason


@pytest.mark.parametrize(
    ("progress", "now", "reason"),
    [
        (Progress(SEEN, still=2.0), 102.0, Reason.CANARY_LATE),
        (Progress(SEEN, still=9.9), 110.0, Reason.CANARY_LATE),
        (Progress(SEEN, still=10.0), 110.0, Reason.MODEL_HUNG),
        (Progress(SEEN, still=3.0, others=105.0), 109.0, Reason.MODEL_BUSY),
        (Progress(SEEN, still=10.0, others=105.0), 115.0, Reason.MODEL_HUNG),
        (Progress(SEEN, still=0.0, others=160.0), 161.0, Reason.MODEL_BUSY),
        (Progress(SEEN, still=0.0, others=99.0), 161.0, Reason.CANARY_LATE),
        (Progress(SEEN, still=3.0), 500.0, Reason.CANARY_LATE),
        (Progress(SEEN, still=20.0, blind=1.0), 130.0, Reason.CANARY_LATE),
        (Progress(SEEN, others=120.0, blind=9.0), 130.0, Reason.MODEL_BUSY),
        (Progress(blind=12.0), 105.0, Reason.CANARY_LATE),
        (Progress(blind=9.0), 130.0, Reason.CANARY_LATE),
        (Progress(blind=12.0), 110.0, Reason.CANARY_UNANSWERED),
    ],
    ids=[
        "late",
        "still within the stall window",
        "nothing moved for the stall window",
        "others finish",
        "others have finished, but nothing has for the stall window",
        "a queue of a minute that moves",
        "only the canary moved something",
        "a pause without reads",
        "not readable right now",
        "not readable right now, busy before",
        "unknown progress",
        "late for long, unreadable for less",
        "unknown progress for the stall window",
    ],
)
def test_late_busy_and_hung_are_distinguished(
    progress: Progress, now: float, reason: Reason
) -> None:
    assert late(progress, now) is reason


@given(st.floats(0, 20), st.floats(0, 20), st.floats(0, 200), st.floats(0, 200), st.floats(0, 200))
def test_only_a_whole_stall_window_makes_a_model_hung(
    still: float, blind: float, others: float, since: float, age: float
) -> None:
    progress = Progress(SEEN, still=still, blind=blind, others=others)
    found = unanswered(CANARY, since, 10.0, progress, since + age)
    if found.level is Level.CRITICAL:
        assert max(still, blind) >= 10.0
        assert found.reason is Reason.MODEL_HUNG or age >= 9.999
    assert found.strain >= 1


def counters(
    successes: int = 0, failures: int = 0, responses: int = 0, version: str = "1"
) -> Counted:
    of = Statistics("chat", version, successes, failures, 0, successes, responses, successes * 0.1)
    found = Counted.of(by_name([of, Statistics("other", "1", 99)])["chat"])
    assert found is not None
    return found


def looks(*counted: Counted | None, own: int = 0, before: Progress | None = None) -> Progress:
    """Reads a second apart, after those before."""
    progress = replace(before or Progress(), own=own)
    began = progress.looked or 0.0
    for number, each in enumerate(counted, 1):
        progress = after_reading(progress, each, began + number, 1.0)
    return progress


@pytest.mark.parametrize("moved", [counters(4), counters(3, responses=1)])
def test_finished_work_is_progress(moved: Counted) -> None:
    assert looks(counters(3), counters(3), counters(3)).still == 2.0
    assert looks(counters(3), counters(3), moved).still == 0.0


def test_refused_requests_are_not_progress() -> None:
    progress = looks(counters(3), counters(3, 1), counters(3, 2))
    assert (progress.still, progress.others) == (2.0, None)


def test_a_canary_restarts_the_stall_clock() -> None:
    assert after_sending(looks(counters(3), *[counters(3)] * 9), 1).still == 0.0


def test_time_without_readings_hardly_counts() -> None:
    before = looks(counters(3), counters(3))
    assert after_reading(before, counters(3), 1000.0, 1.0).still == 3.0


def test_unreadable_counters_keep_earlier_knowledge() -> None:
    progress = looks(counters(3), counters(5), None, None)
    assert (progress.known, progress.blind, progress.others) == (False, 2.0, 2.0)
    assert after_reading(progress, counters(5), 5.0, 1.0).blind == 0.0


@pytest.mark.parametrize(
    ("progress", "now", "reason"),
    [
        (Progress(SEEN, still=9.9), 109.9, Reason.CANARY_LATE),
        (Progress(SEEN, still=10.0), 110.0, Reason.MODEL_BUSY),
        (Progress(SEEN, still=39.9), 139.9, Reason.MODEL_BUSY),
        (Progress(SEEN, still=40.0), 140.0, Reason.MODEL_HUNG),
        (Progress(SEEN, blind=10.0), 110.0, Reason.MODEL_BUSY),
        (Progress(SEEN, blind=40.0), 140.0, Reason.CANARY_UNANSWERED),
        (Progress(SEEN, still=3.0, others=107.0), 110.0, Reason.MODEL_BUSY),
    ],
)
def test_silent_clients_may_delay_a_canary(progress: Progress, now: float, reason: Reason) -> None:
    assert unanswered(CANARY, 100.0, 10.0, progress, now, HeldUp(30.0)).reason is reason


@pytest.mark.parametrize(
    ("before", "requests", "now", "alone"),
    [
        (None, 0, counters(), True),
        (None, 0, counters(1), False),
        (None, 1, counters(1), True),
        (counters(5), 1, counters(6), True),
        (counters(5), 1, counters(7), False),
        (counters(5), 1, counters(6, 1), False),
        (counters(5), 1, counters(3), False),
        (counters(5), 1, counters(6, version="2"), False),
        (counters(5), 1, None, False),
    ],
)
def test_whether_another_client_can_hold_a_slot(
    before: Counted | None, requests: int, now: Counted | None, alone: bool
) -> None:
    assert Progress(now).alone_since(before, requests) is alone


@pytest.mark.parametrize("reloaded", [counters(2), counters(60, version="2")])
def test_a_reloaded_model_starts_to_count_again(reloaded: Counted) -> None:
    progress = looks(counters(50), reloaded)
    assert (progress.generation, progress.traffic, progress.still) == (1, Traffic(), 0.0)
    assert looks(counters(50), counters(50)).generation == 0


def test_versions_of_a_model_are_counted_together() -> None:
    versions = [Statistics("chat", str(each), each) for each in (3, 4)]
    two, one = Counted.of(versions), Counted.of(versions, "4")
    assert two is not None
    assert one is not None
    assert (two.successes, one.successes) == (7, 4)
    assert Counted.of(versions, "5") is None


def test_canaries_are_not_client_requests_whenever_they_are_counted() -> None:
    alone = looks(counters(10), counters(10), counters(11), own=1)
    assert (alone.traffic, alone.others, alone.own, alone.still) == (Traffic(), None, 0, 0.0)
    counted = looks(counters(10), counters(15), own=1)
    assert (counted.traffic.successes, counted.traffic.failures) == (4, 0)
    assert counted.traffic.seconds == pytest.approx(0.4)
    assert (counted.others, counted.own) == (2.0, 0)
    failed = looks(counters(10), counters(10, 1), own=1)
    assert failed.traffic == Traffic()


def test_abandoned_canaries_are_not_remembered_forever() -> None:
    progress = Progress()
    for _ in range(100):
        progress = after_sending(progress, 1)
    assert progress.own == 2


@pytest.mark.parametrize(
    ("recent", "expected"),
    [
        ([], Reason.OK),
        ([Traffic(10, 0, 1.0)], Reason.OK),
        ([Traffic(10, 0, 6.0)], Reason.TRAFFIC_SLOW),
        ([Traffic(10, 0, 6.0), Traffic()], Reason.OK),
        ([Traffic(0, 4)], Reason.OK),
        ([Traffic(0, 1)] * 5, Reason.TRAFFIC_FAILING),
        ([Traffic(4, 5)], Reason.TRAFFIC_FAILING),
        ([Traffic(100, 20, 1.0)], Reason.OK),
    ],
)
def test_traffic(recent: list[Traffic], expected: Reason) -> None:
    progress = Progress(SEEN, recent=tuple(recent))
    assert traffic_finding("chat", progress, 0.5, 0.5).reason is expected


def test_without_a_budget_no_traffic_is_slow() -> None:
    assert traffic_finding("chat", Progress(recent=(Traffic(1, 0, 1e6),)), None, 0.5).ok


def test_failures_of_clients_are_forgotten_after_a_while() -> None:
    progress = looks(counters(), counters(0, 9))
    assert not traffic_finding("chat", progress, None, 0.5).ok
    quiet = looks(*[counters(0, 9)] * 10, before=progress)
    assert traffic_finding("chat", quiet, None, 0.5).ok


def timed(
    seconds: float, first: float = 0.0, progress: Progress | None = None, **budgets: float
) -> Finding:
    canary = replace(CANARY, budgets=Budgets(**budgets))
    return answered(canary, Answer({}, 1, first, seconds), 100.0, progress or Progress(SEEN))


def test_budgets() -> None:
    assert timed(0.1).ok
    assert timed(0.3, warn=0.2, fail=1.0).reason is Reason.CANARY_SLOW
    assert timed(0.3, warn=0.2, fail=1.0).strain == pytest.approx(1.5)
    assert timed(1.1, warn=0.2, fail=1.0).reason is Reason.CANARY_TOO_SLOW
    assert timed(0.1, first=0.1, first_warn=0.05).reason is Reason.CANARY_SLOW
    assert timed(0.3, first=0.3, first_fail=0.2).reason is Reason.CANARY_TOO_SLOW


@pytest.mark.parametrize("progress", [Progress(SEEN, others=100.5), Progress(SEEN, blind=1.0)])
def test_a_canary_that_may_have_been_queued_is_slow_but_not_failed(progress: Progress) -> None:
    assert timed(1.1, progress=progress, warn=0.2, fail=1.0).reason is Reason.CANARY_SLOW


def test_the_strain_is_that_of_the_budget_exceeded_most() -> None:
    assert timed(3.0, first=3.0, warn=1.0, first_warn=0.1).strain == pytest.approx(30)


def test_an_answer_after_the_timeout_is_slow_without_any_budget() -> None:
    assert timed(2.5).reason is Reason.CANARY_SLOW
    assert timed(2.5).layer is Layer.CANARY


@pytest.mark.parametrize(
    ("traffic", "took", "models", "expected"),
    [
        (Traffic(), 0.01, 1, 1.0),
        (Traffic(5, 1), 0.01, 1, 0.1),
        (Traffic(5), None, 1, 1.0),
        (Traffic(5), 0.001, 1, 0.25),  # four times in an interval
        (Traffic(5), 0.025, 1, 0.5),  # 5 % of the time
        (Traffic(5), 3.0, 1, 2.0),  # canary_floor
        (Traffic(5), 0.001, 10, 1.0),  # half of 20 canaries a second
        (Traffic(5), 0.001, 100, 2.0),
    ],
)
def test_the_pause_before_the_next_canary(
    traffic: Traffic, took: float | None, models: int, expected: float
) -> None:
    assert pace(traffic, took, HealthSettings().rules, models) == pytest.approx(expected)


def statistics(model: str = "chat", successes: int = 0, version: str = "1") -> Statistics:
    return Statistics(model, version, successes, executions=successes)


@pytest.mark.parametrize(
    ("looks", "loads"),
    [
        ([[statistics(successes=5)]], {"chat": 0}),
        (
            [[statistics(successes=5)], [statistics(successes=5)], [statistics(successes=9)]],
            {"chat": 0},
        ),
        ([[statistics(successes=5)], [statistics()], [statistics(successes=5)]], {"chat": 1}),
        ([[statistics()], [], []], {}),
        ([[statistics()], [], [], [statistics()]], {"chat": 1}),
        ([[statistics(successes=5)], [statistics()], [], [statistics()]], {"chat": 2}),
        ([[statistics()], [], [statistics("inner", 7)]], {"inner": 1}),
        ([[statistics()], [statistics(), statistics(version="2")]], {"chat": 1}),
        (
            [[statistics(), statistics("inner", 7)], [statistics(), statistics("inner", 2)]],
            {"chat": 0, "inner": 1},
        ),
    ],
    ids=[
        "the first read",
        "at work",
        "restarted",
        "gone",
        "back again",
        "back again, but not the same",
        "another one comes",
        "one more version",
        "another",
    ],
)
def test_which_load_a_model_is_at(looks: list[list[Statistics]], loads: dict[str, int]) -> None:
    seen = Loads()
    for statistics in looks:
        seen = seen.after(by_name(statistics))
    assert seen.by_model == loads


def test_as_many_requests_in_less_time_belong_to_another_load() -> None:
    before = replace(statistics(successes=3), success_seconds=3.0)
    after = replace(before, success_seconds=0.2)
    seen = Loads().after({"chat": [before]})
    assert seen.after({"chat": [after]}).number("chat") > seen.number("chat")


def test_a_model_that_was_unloaded_is_another_load_and_leaves_nothing_behind() -> None:
    seen = Loads()
    for number in range(100):
        here = seen.after({f"chat-{number}": [statistics(f"chat-{number}")]})
        seen = here.after({})
        assert seen.number(f"chat-{number}") > here.number(f"chat-{number}")
    assert (seen.by_model, seen.counted) == ({}, {})


class Counting(list[Statistics]):
    """Statistics that count how often they are iterated."""

    times = 0

    def __iter__(self) -> Iterator[Statistics]:
        self.times += 1
        return super().__iter__()


def test_the_statistics_are_iterated_once_however_many_models_there_are() -> None:
    many = Counting(statistics(f"chat-{number}") for number in range(100))
    own = {name: Counting(each) for name, each in by_name(many).items()}
    assert len(Loads().after(own).by_model) == 100
    assert [many.times, *{each.times for each in own.values()}] == [1, 1]
