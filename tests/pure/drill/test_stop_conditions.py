"""When a drill must not begin, or has to stop."""

from sidecar.drill.samples import Outcome, Sample
from sidecar.drill.stop_conditions import Bounds, Stop, before_injection, while_running

BOUNDS = Bounds(error_rate=0.5, window=5.0, least=10, longest=100.0)


def ended(at: float, outcome: Outcome = "answered") -> Sample:
    return Sample("unary", 0, at - 0.1, 0.1, outcome)


def code(stop: Stop | None) -> str:
    return stop.code if stop else ""


def test_another_instance_has_to_be_healthy() -> None:
    assert before_injection("a", {"a", "b"}) is None
    assert before_injection("", {"a"}) is None
    assert code(before_injection("a", {"a"})) == "no_healthy_instance"
    assert code(before_injection("", ())) == "no_healthy_instance"


def test_too_many_failures_within_the_window() -> None:
    half = [ended(20.0 + n / 10, "failed" if n % 2 else "answered") for n in range(20)]
    assert while_running(half, 22.0, 10.0, BOUNDS) is None
    more = [*half, ended(22.0, "failed")]
    assert code(while_running(more, 22.0, 10.0, BOUNDS)) == "error_rate"


def test_older_failures_and_those_before_the_injection_do_not_count() -> None:
    failed = [ended(20.0 + n / 10, "failed") for n in range(20)]
    answered = [ended(30.0 + n / 10) for n in range(20)]
    assert while_running([*failed, *answered], 32.0, 10.0, BOUNDS) is None
    assert while_running(failed, 22.0, 22.0, BOUNDS) is None


def test_a_few_failures_say_nothing() -> None:
    assert while_running([ended(20.0, "failed")] * 9, 20.0, 10.0, BOUNDS) is None
    assert code(while_running([ended(20.0, "failed")] * 10, 20.0, 10.0, BOUNDS)) == "error_rate"


def test_samples_may_be_slightly_out_of_order() -> None:
    failed = [ended(20.0 + n / 10, "failed") for n in range(10)]
    late = [*failed, ended(17.5)]
    assert code(while_running(late, 23.0, 10.0, BOUNDS)) == "error_rate"


def test_requests_that_never_end() -> None:
    assert code(while_running([ended(10.0)], 16.0, 10.0, BOUNDS, in_flight=3)) == "no_answers"
    assert while_running([ended(10.0)], 16.0, 10.0, BOUNDS, in_flight=0) is None
    assert while_running([ended(10.0)], 14.0, 10.0, BOUNDS, in_flight=3) is None


def test_a_run_that_takes_too_long() -> None:
    assert while_running([ended(110.0)], 110.0, 10.0, BOUNDS) is None
    assert code(while_running([ended(110.0)], 111.0, 10.0, BOUNDS)) == "time_over"
