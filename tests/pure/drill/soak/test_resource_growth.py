"""Trends of memory and leaks."""

import random

import pytest

from sidecar.drill.record import ProcessTrend
from sidecar.drill.soak.resource_growth import (
    Inventory,
    Reading,
    growing,
    grows,
    inventory,
    leaks,
    trends,
)

MIB = 1 << 20
BOUND = 16.0  # MiB an hour
NOTHING = Inventory()


def life(
    per_hour: float, seconds: int, *, start: int = 0, noise: float = 0.0, pid: int = 1
) -> list[Reading]:
    """A process of 80 MiB that grows by so many MiB an hour, read every 5 s."""
    chance = random.Random(0)
    return [
        Reading(
            float(at),
            "xds",
            (pid, start),
            round((80 + per_hour * (at - start) / 3600 + chance.uniform(-noise, noise)) * MIB),
            10,
        )
        for at in range(start, start + seconds, 5)
    ]


def trend(readings: list[Reading], since: float = 0.0) -> ProcessTrend:
    [found] = trends(readings, since, NOTHING, NOTHING)
    return found


@pytest.mark.parametrize("per_hour", [-50.0, 0.0, 15.0])
def test_memory_that_grows_by_less_than_the_bound_is_flat(per_hour: float) -> None:
    found = trend(life(per_hour, 3600))
    assert found.slope == pytest.approx(per_hour * MIB, rel=0.01, abs=MIB / 100)
    assert not grows(found, BOUND)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_a_leak_is_found_in_noise(noise: float) -> None:
    found = trend(life(40.0, 3600, noise=noise), since=1800.0)
    assert grows(found, BOUND)
    assert found.grown == pytest.approx(20 * MIB, rel=0.1)
    [violation] = growing([found], BOUND)
    assert violation.code == "memory"
    assert "xds" in violation.found


def test_noise_alone_is_flat() -> None:
    assert not grows(trend(life(0.0, 300, noise=3.0)), BOUND)


def test_a_single_step_is_no_trend() -> None:
    readings = [*life(0.0, 600), *life(0.0, 600, start=600)]
    readings = [
        Reading(each.at, "xds", (1, 0), each.rss + (20 * MIB if each.at > 400 else 0), 10)
        for each in readings
    ]
    assert not grows(trend(readings), BOUND)


def test_a_saw_is_no_trend() -> None:
    readings = [
        Reading(float(at), "xds", (1, 0), (80 + at % 100 // 5) * MIB, 10)
        for at in range(0, 3600, 5)
    ]
    assert not grows(trend(readings), BOUND)


def test_what_a_new_process_fills_at_its_start_does_not_count() -> None:
    start = [Reading(float(at), "xds", (1, 0), (20 + at) * MIB, 10) for at in range(0, 60, 5)]
    rest = [Reading(float(at), "xds", (1, 0), 80 * MIB, 10) for at in range(60, 300, 5)]
    found = trend(start + rest)
    assert found.slope == 0.0
    assert found.observed == pytest.approx(235.0)


def test_lives_that_are_too_short_are_not_judged() -> None:
    readings = [each for n in range(10) for each in life(5000.0, 60, start=n * 60, pid=n)]
    found = trend(readings)
    assert (found.lives, found.slope, found.observed) == (10, None, 0.0)
    assert not grows(found, BOUND)


def test_a_leak_is_found_over_several_lives() -> None:
    readings = [each for n in range(4) for each in life(200.0, 300, start=n * 300, pid=n)]
    found = trend(readings)
    assert found.lives == 4
    assert grows(found, BOUND)


def test_a_pid_that_is_used_again_is_another_life() -> None:
    readings = [*life(0.0, 300), *[
        Reading(each.at, each.name, each.life, each.rss + 50 * MIB, 10)
        for each in life(0.0, 300, start=300)
    ]]  # fmt: skip
    assert trend(readings).lives == 2
    assert trend(readings).slope == 0.0


def test_trends_have_the_descriptors_of_both_ends() -> None:
    before, after = Inventory(descriptors={"xds": 10}), Inventory(descriptors={"xds": 12})
    [found] = trends(life(0.0, 300), 0.0, before, after)
    assert (found.descriptors_before, found.descriptors_after) == (10, 12)


def test_an_inventory_counts_processes_and_sums_their_descriptors() -> None:
    readings = [Reading(0.0, "stub", (n, 0), MIB, 7) for n in range(3)]
    found = inventory(readings, {"/dev/shm/a": 1}, {"key k": 1})
    assert found.processes == {"stub": 3}
    assert found.descriptors == {"stub": 21}
    assert list(leaks(found, found)) == []


@pytest.mark.parametrize(
    ("code", "after"),
    [
        ("leaked_processes", Inventory(processes={"stub": 2})),
        ("leaked_shared_memory", Inventory(shared_memory={"stub": 2})),
        ("leaked_consul_entries", Inventory(consul={"stub": 2})),
        ("leaked_descriptors", Inventory(descriptors={"stub": 40})),
    ],
)
def test_what_there_is_more_of_is_leaked(code: str, after: Inventory) -> None:
    one = {"stub": 1}
    before = Inventory(one, {"stub": 20}, one, one)
    [found] = leaks(before, after)
    assert found.code == code
    assert "stub" in found.found
    assert list(leaks(after, before)) != [found]


def test_a_few_more_connections_are_no_leak() -> None:
    before = Inventory(descriptors={"server-0": 20, "envoy": 200})
    after = Inventory(descriptors={"server-0": 28, "envoy": 250, "new": 5})
    assert list(leaks(before, after)) == []


def test_a_long_leak_is_cut_short() -> None:
    after = Inventory(consul={f"key {n}": 1 for n in range(100)})
    [found] = leaks(NOTHING, after)
    assert len(found.found) < 100


def test_a_stub_may_inherit_the_descriptors_of_its_triton() -> None:
    stub = "triton-0 triton_python_backend_stub"
    before, after = Inventory(descriptors={stub: 20}), Inventory(descriptors={stub: 90})
    assert list(leaks(before, after)) == []


def test_what_was_hardly_seen_is_not_in_the_table() -> None:
    assert trends(life(0.0, 10), 0.0, NOTHING, NOTHING) == ()
