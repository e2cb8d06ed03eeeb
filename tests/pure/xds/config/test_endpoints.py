"""Which instance comes first under each traffic policy."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.traffic.policy import DEFAULTS, Locality, Mode, Release, TrafficPolicy
from sidecar.xds.catalog.catalog import Health, Instance, Leader, ServiceCatalog
from sidecar.xds.config.clusters import max_ejection_percent, runtime
from sidecar.xds.config.endpoints import (
    Assignment,
    assign,
    clusters_of,
    has_release,
    release_cluster,
    share,
)
from tests.support.traffic_policies import policies

A = Instance("a", "10.0.0.1", 8001, 9001, zone="east")
B = Instance("b", "10.0.0.2", 8001, 9001, zone="west")
C = Instance("c", "10.0.0.3", 8001, 9001, zone="east", tags=("v2",), model_set="files-2")
D = Instance("d", "10.0.0.4", 8001, 9001, zone="east", datacenter="dc2")
E = Instance("e", "10.0.0.5", 8001, 9001, datacenter="dc3")
NEARBY = Locality(prefer_zone=True, datacenters=("dc2", "dc3"))


def mode(name: Mode, **changes: object) -> TrafficPolicy:
    return replace(DEFAULTS, mode=name, **changes)  # type: ignore[arg-type]


def groups(found: Assignment) -> list[str]:
    """Each priority as one word, and the instances that get no requests after a slash."""
    words = ["".join(instance.id for instance in group) for group in found.priorities]
    return [*words, *(f"/{instance.id}" for instance in found.withdrawn)]


def arranged(
    *instances: Instance, policy: TrafficPolicy, leader: str = "a", zone: str = ""
) -> dict[str, list[str]]:
    service = ServiceCatalog("s", instances, Leader(leader, 1), policy=policy)
    return {name: groups(found) for name, found in assign(service, zone).items()}


@pytest.mark.parametrize(
    ("policy", "zone", "expected"),
    [
        (DEFAULTS, "", ["a", "bc", "d", "e"]),
        (mode(Mode.ACTIVE_ACTIVE), "", ["abc", "d", "e"]),
        (mode(Mode.STRICT), "", ["a", "/b", "/c", "/d", "/e"]),
        (mode(Mode.WEIGHTED, weights=(("b", 3), ("c", 1))), "", ["bc", "a", "d", "e"]),
        # The role counts for more than the location, and the datacenter for more than the zone.
        (replace(DEFAULTS, locality=NEARBY), "west", ["a", "b", "c", "d", "e"]),
        (mode(Mode.ACTIVE_ACTIVE, locality=NEARBY), "east", ["ac", "b", "d", "e"]),
        (mode(Mode.ACTIVE_ACTIVE, locality=NEARBY), "", ["abc", "d", "e"]),
        (
            mode(Mode.ACTIVE_ACTIVE, locality=replace(NEARBY, datacenters=("dc3", "dc2"))),
            "",
            ["abc", "e", "d"],
        ),
    ],
)
def test_which_instances_come_first(policy: TrafficPolicy, zone: str, expected: list[str]) -> None:
    # A datacenter that the policy does not name is not watched; if it were, it would come last.
    if not policy.locality.datacenters:
        policy = replace(policy, locality=replace(policy.locality, datacenters=("dc2",)))
    assert arranged(A, B, C, D, E, policy=policy, zone=zone) == {"s": expected}


@pytest.mark.parametrize("about", [Release(tag="v2"), Release(model_set="files-2")])
def test_the_release_has_a_separate_cluster_and_each_falls_back_to_the_other(
    about: Release,
) -> None:
    def sides(percent: int, rolled_back: str = "") -> dict[str, list[str]]:
        release = replace(about, percent=percent, rolled_back=rolled_back)
        return arranged(A, B, C, policy=replace(DEFAULTS, release=release))

    assert sides(10) == {"s": ["a", "b", "c"], "s~release": ["c", "a", "b"]}
    assert sides(100) == {"s": ["a", "b", "c"], "s~release": ["c", "a", "b"]}
    assert sides(0) == sides(50, rolled_back="by x") == sides(10)


def test_a_primary_of_the_release_comes_first_only_in_its_cluster() -> None:
    policy = replace(DEFAULTS, release=Release(tag="v2", percent=10))
    found = arranged(A, B, C, replace(C, id="f", address="10.0.0.6"), policy=policy, leader="c")
    assert found == {"s": ["ab", "c", "f"], "s~release": ["c", "f", "ab"]}


def test_mode_strict_ignores_a_release() -> None:
    policy = mode(Mode.STRICT, release=Release(tag="v2", percent=50))
    assert arranged(A, C, policy=policy) == {"s": ["a", "/c"]}
    assert share(policy) == 0


def test_mode_strict_without_a_usable_primary_has_no_endpoint() -> None:
    critical = replace(A, health=Health.CRITICAL)
    assert arranged(critical, B, policy=mode(Mode.STRICT)) == {"s": ["/a", "/b"]}
    assert arranged(A, B, policy=mode(Mode.STRICT), leader="gone") == {"s": ["/a", "/b"]}


def test_a_silent_instance_is_used_if_no_other_is_left() -> None:
    silent, unhealthy, leaves = (
        replace(B, silent=True),
        replace(C, silent=True, health=Health.CRITICAL),
        replace(D, silent=True, draining=True),
    )
    assert arranged(A, silent, policy=DEFAULTS) == {"s": ["a", "/b"]}
    assert arranged(silent, unhealthy, leaves, policy=DEFAULTS) == {"s": ["b", "/c", "/d"]}
    lone = replace(A, silent=True)
    assert arranged(lone, silent, policy=DEFAULTS) == {"s": ["a", "b"]}
    # In mode strict it has to report that its claim to the role is valid.
    assert arranged(lone, silent, policy=mode(Mode.STRICT)) == {"s": ["/a", "/b"]}


LEAVING = replace(A, draining=True, hands_over=True)
FULL = replace(A, health=Health.CRITICAL, hands_over=True)


@pytest.mark.parametrize("leaving", [LEAVING, FULL])
@pytest.mark.parametrize(
    ("others", "policy", "leader", "expected"),
    [
        # After all other instances, but before those without requests.
        ((), DEFAULTS, "a", ["a"]),
        ((B, D), DEFAULTS, "a", ["b", "d", "a"]),
        ((B,), DEFAULTS, "b", ["b", "a"]),
        ((replace(B, health=Health.CRITICAL),), DEFAULTS, "b", ["a", "/b"]),
        ((B,), mode(Mode.ACTIVE_ACTIVE), "a", ["b", "a"]),
        # As long as it has the role.
        ((B,), mode(Mode.STRICT), "a", ["a", "/b"]),
        ((B,), mode(Mode.STRICT), "b", ["b", "/a"]),
    ],
)
def test_an_instance_taken_out_of_service_comes_last(
    leaving: Instance,
    others: tuple[Instance, ...],
    policy: TrafficPolicy,
    leader: str,
    expected: list[str],
) -> None:
    assert arranged(leaving, *others, policy=policy, leader=leader) == {"s": expected}


@pytest.mark.parametrize(
    ("weights", "percent", "expected"),
    [
        ((("a", 3), ("b", 2)), 100, [300, 200]),
        ((("a", 3), ("b", 2)), 50, [150, 200]),
        ((("a", 1), ("b", 655)), 1, [1, 65_500]),
        ((("a", 1), ("b", 65_535)), 50, [1, 65_535]),
    ],
)
def test_a_warning_lowers_the_policys_weight_too(
    weights: tuple[tuple[str, int], ...], percent: int, expected: list[int]
) -> None:
    policy = mode(Mode.WEIGHTED, weights=weights)
    service = ServiceCatalog("s", (replace(A, percent=percent), B), policy=policy)
    [group] = assign(service)["s"].priorities
    assert [instance.weight for instance in group] == expected


@pytest.mark.parametrize(
    ("capacities", "expected"), [((), None), ((0, 3), None), ((4, 3), 7), ((5,), 5)]
)
def test_capacity_includes_every_instance_that_may_be_working(
    capacities: tuple[int, ...], expected: int | None
) -> None:
    listed = [replace(A, id=str(n), capacity=each) for n, each in enumerate(capacities)]
    priorities = tuple((each,) for each in listed[1:])
    assert Assignment("s", priorities, tuple(listed[:1])).capacity == expected


INSTANCES = st.lists(
    st.builds(
        lambda number, health, draining, tags, datacenter, zone: Instance(
            f"i{number}",
            f"10.0.0.{number}",
            8001,
            9001,
            health,
            draining,
            tags=tags,
            datacenter=datacenter,
            zone=zone,
        ),
        st.integers(1, 6),
        st.sampled_from(Health),
        st.booleans(),
        st.sampled_from([(), ("v2",)]),
        st.sampled_from(["", "dc2"]),
        st.sampled_from(["", "east"]),
    ),
    unique_by=lambda instance: instance.id,
    max_size=6,
).map(tuple)


@given(INSTANCES, policies(), st.sampled_from(["i1", "i2", "gone"]), st.sampled_from(["", "east"]))
def test_each_cluster_lists_every_instance_once_and_routes_to_the_usable_ones(
    instances: tuple[Instance, ...], policy: TrafficPolicy, leader: str, zone: str
) -> None:
    service = ServiceCatalog("s", instances, Leader(leader, 1), policy=policy)
    found = assign(service, zone)
    assert set(found) <= set(clusters_of("s"))
    assert (release_cluster("s") in found) == has_release(policy)
    usable = {instance.id for instance in instances if instance.usable}
    if policy.mode is Mode.STRICT:
        usable &= {leader}
    for assignment in found.values():
        listed = [i.id for group in assignment.priorities for i in group]
        assert sorted(listed) == sorted(usable)
        assert all(assignment.priorities)
        all_ids = listed + [instance.id for instance in assignment.withdrawn]
        assert sorted(all_ids) == sorted(instance.id for instance in instances)


PERCENTS = st.integers(0, 100)


def ejectable(percent: int, hosts: int) -> int:
    """How many Envoy ejects: while 100 * (ejected + 1) / hosts is at most the percentage."""
    return max((n for n in range(1, hosts + 1) if 100.0 * n / hosts <= percent), default=0)


def with_percent(percent: int) -> TrafficPolicy:
    outliers = replace(DEFAULTS.outlier_detection, max_ejection_percent=percent)
    return replace(DEFAULTS, outlier_detection=outliers)


@given(INSTANCES, PERCENTS)
def test_the_percentage_applies_to_the_usable_instances(
    instances: tuple[Instance, ...], percent: int
) -> None:
    policy = with_percent(percent)
    [found] = assign(ServiceCatalog("s", instances, policy=policy)).values()
    sent = max_ejection_percent([(found, policy)])
    in_force = percent if sent is None else sent
    usable = len(found.routable)
    assert ejectable(in_force, len(found.listed)) == ejectable(percent, usable)
    if not found.withdrawn:
        assert sent is None


@given(st.lists(st.tuples(INSTANCES, PERCENTS), min_size=1, max_size=4))
def test_no_cluster_ejects_more_because_of_another(
    services: list[tuple[tuple[Instance, ...], int]],
) -> None:
    found = [
        (assignment, with_percent(percent))
        for instances, percent in services
        for assignment in assign(ServiceCatalog("s", instances)).values()
    ]
    sent = max_ejection_percent(found)
    for (assignment, _), (_, percent) in zip(found, services, strict=True):
        in_force = percent if sent is None else sent
        allowed = ejectable(percent, len(assignment.routable))
        assert ejectable(in_force, len(assignment.listed)) <= allowed
        assert in_force <= percent


@pytest.mark.parametrize(
    ("usable", "withdrawn", "sent"),
    [(2, 0, None), (1, 0, None), (4, 1, None), (1, 1, 49), (2, 2, 49), (1, 3, 24), (0, 2, 49)],
)
def test_the_percentage_is_lowered_no_further_than_necessary(
    usable: int, withdrawn: int, sent: int | None
) -> None:
    assert max_ejection_percent([(of(usable, withdrawn), DEFAULTS)]) == sent


@pytest.mark.parametrize(
    ("clusters", "at_once"),
    [
        ([], False),
        ([(1, 0)], False),  # no withdrawn instance is left
        ([(1, 3)], True),
        ([(0, 2)], True),
        ([(2, 0)], False),
        ([(2, 2)], False),
        ([(1, 1), (1, 1)], True),
        ([(1, 1), (2, 0)], False),  # in the other cluster an ejection would not last
    ],
)
def test_ejections_end_at_once_if_withdrawals_leave_no_host_to_eject(
    clusters: list[tuple[int, int]], at_once: bool
) -> None:
    layer = runtime([(of(*each), DEFAULTS) for each in clusters]).layer
    assert ("outlier_detection.base_ejection_time_ms" in layer) == at_once


def of(usable: int, withdrawn: int) -> Assignment:
    """A cluster with so many instances."""
    listed = [replace(A, id=str(number)) for number in range(usable + withdrawn)]
    priorities = tuple((each,) for each in listed[withdrawn:])
    return Assignment("s", priorities, tuple(listed[:withdrawn]))
