import random
import re
from dataclasses import fields, replace

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.route.v3 import route_pb2
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st

from sidecar.traffic.policy import DEFAULTS, Retry
from sidecar.xds.catalog.catalog import Catalog, Health, Instance, Leader, ServiceCatalog
from sidecar.xds.config import clusters, routes
from sidecar.xds.config.edge import Edge
from sidecar.xds.config.endpoints import Assignment, assign
from sidecar.xds.config.filters.quarantine_filter import EXTRA_ATTEMPTS
from sidecar.xds.config.routes import Routing
from sidecar.xds.config.snapshot import CLUSTER, ENDPOINT, LISTENER, ORDER, ROUTE, build

EDGE = Edge()
A = Instance("a", "10.0.0.1", 8001, 9001)
B = Instance("b", "10.0.0.2", 8001, 9001, weight=2)
C = Instance("c", "10.0.0.3", 8001, 9001)

INSTANCES = st.lists(
    st.builds(
        lambda number, port, health, draining: Instance(
            f"i{number}", "10.0.0.1", port, 9000, health, draining, weight=number
        ),
        st.integers(1, 5),
        st.integers(8001, 8004),
        st.sampled_from(Health),
        st.booleans(),
    ),
    unique_by=lambda instance: instance.id,
    max_size=5,
).map(tuple)
LEADERS = st.none() | st.builds(Leader, st.sampled_from(["i1", "i2", "gone"]), st.integers(1, 9))
SERVICES = st.builds(ServiceCatalog, st.just("triton"), INSTANCES, LEADERS, st.just(True))


def ids(service: ServiceCatalog) -> tuple[list[list[str]], list[str]]:
    found = assign(service)["triton"]
    groups = [[instance.id for instance in group] for group in found.priorities]
    return groups, [instance.id for instance in found.withdrawn]


@pytest.mark.parametrize(
    ("instances", "leader", "groups", "withdrawn"),
    [
        ((A, B, C), "b", [["b"], ["a", "c"]], []),
        ((A, B), None, [["a", "b"]], []),
        ((A, B), "gone", [["a", "b"]], []),
        ((replace(A, health=Health.WARNING), B), "a", [["a"], ["b"]], []),
        ((replace(A, health=Health.CRITICAL), B, C), "a", [["b", "c"]], ["a"]),
        ((replace(A, draining=True), B), "a", [["b"]], ["a"]),
        ((replace(A, draining=True, health=Health.CRITICAL), B), "b", [["b"]], ["a"]),
        ((replace(A, health=Health.CRITICAL),), "a", [], ["a"]),
        ((A,), "a", [["a"]], []),
        # With the same address: the leader, the healthier one, the first by name; of unusable ones
        # the one whose drain is watched.
        ((replace(A, id="old"), replace(A, id="z")), "z", [["z"]], []),
        ((replace(A, health=Health.WARNING), replace(A, id="z")), None, [["z"]], []),
        ((replace(A, id="b"), A), None, [["a"]], []),
        ((replace(A, health=Health.CRITICAL), replace(A, id="z")), "a", [["z"]], []),
        (
            (replace(A, health=Health.CRITICAL), replace(A, id="z", draining=True)),
            "a",
            [],
            ["z"],
        ),
        ((replace(A, draining=True),), "a", [], ["a"]),
        ((), "a", [], []),
    ],
)
def test_which_instance_comes_first(
    instances: tuple[Instance, ...],
    leader: str | None,
    groups: list[list[str]],
    withdrawn: list[str],
) -> None:
    led = Leader(leader, 1) if leader else None
    assert ids(ServiceCatalog("triton", instances, led)) == (groups, withdrawn)


@given(SERVICES)
def test_every_assignment_is_accepted_by_envoy(service: ServiceCatalog) -> None:
    message = clusters.load_assignment(assign(service)["triton"])
    priorities = [locality.priority for locality in message.endpoints]
    assert priorities == list(range(len(priorities)))
    endpoints = [found for locality in message.endpoints for found in locality.lb_endpoints]
    assert all(locality.lb_endpoints for locality in message.endpoints)
    places = [str(found.endpoint.address) for found in endpoints]
    assert len(places) == len(set(places))
    assert all(found.load_balancing_weight.value >= 1 for found in endpoints)


@given(SERVICES)
def test_exactly_the_usable_instances_get_requests(service: ServiceCatalog) -> None:
    found = assign(service)["triton"]
    usable = {instance.endpoint for instance in service.instances if instance.usable}
    assert {i.endpoint for group in found.priorities for i in group} == usable
    led = service.leader.instance if service.leader else None
    if any(instance.id == led and instance.usable for instance in service.instances):
        assert [instance.id for instance in found.priorities[0]] == [led]
    listed = {*usable, *(instance.endpoint for instance in found.withdrawn)}
    assert listed == {instance.endpoint for instance in service.instances}
    assert not any(instance.usable for instance in found.withdrawn)


@given(SERVICES, st.randoms(use_true_random=False))
def test_equal_catalogs_have_equal_versions(
    service: ServiceCatalog, shuffle: random.Random
) -> None:
    shuffled = list(service.instances)
    shuffle.shuffle(shuffled)
    first = build(Catalog((service,)), EDGE)
    second = build(Catalog((replace(service, instances=tuple(shuffled)),)), EDGE)
    assert first == second
    assert hash(first) == hash(second)
    assert first.version == second.version


@given(SERVICES, SERVICES)
def test_versions_differ_exactly_if_the_content_does(
    one: ServiceCatalog, other: ServiceCatalog
) -> None:
    first, second = build(Catalog((one,)), EDGE), build(Catalog((other,)), EDGE)
    same = _as_envoy_sees(one) == _as_envoy_sees(other)
    assert (first.of(ENDPOINT)["triton"].version == second.of(ENDPOINT)["triton"].version) == same
    assert (first == second) == same
    for type_url in (CLUSTER, LISTENER, ROUTE):
        assert first.of(type_url) == second.of(type_url)


def _as_envoy_sees(service: ServiceCatalog) -> Assignment:
    """Without the reasons: Envoy gets only weights, and which instances get no requests."""

    def plain(group: tuple[Instance, ...]) -> tuple[Instance, ...]:
        return tuple(replace(instance, health=Health.PASSING, draining=False) for instance in group)

    found = assign(service)["triton"]
    priorities = tuple(plain(group) for group in found.priorities)
    return replace(found, priorities=priorities, withdrawn=plain(found.withdrawn))


@given(SERVICES, SERVICES)
def test_equal_versions_route_to_the_same_instances(
    one: ServiceCatalog, other: ServiceCatalog
) -> None:
    first, second = build(Catalog((one,)), EDGE), build(Catalog((other,)), EDGE)
    if first == second:
        for name in ("i1", "i2", "i3", "i4", "i5"):
            assert first.routes_to("triton", name) == second.routes_to("triton", name)


def test_an_instance_renamed_in_place_is_a_change() -> None:
    # Otherwise an acknowledgement of the old name would confirm a drain of the new one.
    first = build(Catalog((ServiceCatalog("triton", (A,)),)), EDGE)
    second = build(Catalog((ServiceCatalog("triton", (replace(A, id="new"),)),)), EDGE)
    assert first != second
    assert second.routes_to("triton", "new")


def test_a_policy_changes_only_the_resources_it_is_about() -> None:
    service = ServiceCatalog("triton", (A,))
    eager = replace(DEFAULTS, retry=Retry(num_retries=9))
    first = build(Catalog((service,)), EDGE)
    second = build(Catalog((replace(service, policy=eager),)), EDGE)
    changed = {url for url in ORDER if first.of(url) != second.of(url)}
    assert changed == {ROUTE}


def _numbers(table: object) -> set[float]:
    """All numbers in a message as JSON, durations as seconds."""
    if isinstance(table, dict):
        return {found for each in table.values() for found in _numbers(each)}
    if isinstance(table, list):
        return {found for each in table for found in _numbers(each)}
    if isinstance(table, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?)s?", table)):
        return {float(match[1])}
    return {float(table)} if isinstance(table, int | float) else set()


PARTS = ("health_check", "outlier_detection", "retry", "connection")
NO_NUMBERS = ("retryable_status_codes", "idempotent")


@pytest.mark.parametrize(
    ("part", "key"),
    [
        (part, key.name)
        for part in PARTS
        for key in fields(getattr(DEFAULTS, part))
        if key.name not in NO_NUMBERS
    ],
)
def test_each_number_of_a_policy_reaches_envoy(part: str, key: str) -> None:
    odd = {"max_ejection_percent": 37, "interval_jitter_percent": 37, "healthy_panic_threshold": 37}
    value = odd.get(key, 98_765)
    policy = replace(DEFAULTS, **{part: replace(getattr(DEFAULTS, part), **{key: value})})
    snapshot = build(Catalog((ServiceCatalog("triton", (A,), policy=policy),)), EDGE)
    messages = {CLUSTER: cluster_pb2.Cluster(), ROUTE: route_pb2.RouteConfiguration()}
    found: set[float] = set()
    for type_url, message in messages.items():
        for resource in snapshot.of(type_url).values():
            resource.body.Unpack(message)
            found |= _numbers(MessageToDict(message))
    assert value + (EXTRA_ATTEMPTS if key == "num_retries" else 0) in found


def test_an_unsettled_service_has_no_resources() -> None:
    known, unknown = ServiceCatalog("one", (A,)), ServiceCatalog("two", settled=False)
    snapshot = build(Catalog((known, unknown)), EDGE)
    assert set(snapshot.of(CLUSTER)) == {"one", "two"}
    assert set(snapshot.of(ENDPOINT)) == {"one"}


def test_an_empty_service_has_an_empty_assignment() -> None:
    snapshot = build(Catalog((ServiceCatalog("triton"),)), EDGE)
    assert set(snapshot.of(ENDPOINT)) == {"triton"}


@pytest.mark.parametrize(
    ("type_url", "name", "message"),
    [
        (CLUSTER, "triton", "no such cluster"),
        (ROUTE, routes.ROUTES, "there are none"),
    ],
)
def test_a_missing_reference_is_found(type_url: str, name: str, message: str) -> None:
    snapshot = build(Catalog((ServiceCatalog("triton", (A,)),)), EDGE)
    kept = {key: found for key, found in snapshot.of(type_url).items() if key != name}
    broken = replace(snapshot, resources={**snapshot.resources, type_url: kept})
    with pytest.raises(ValueError, match=message):
        broken.consistent()


def test_routes_name_services_and_the_first_takes_the_rest() -> None:
    message = routes.routes((Routing("one", DEFAULTS), Routing("two", DEFAULTS)))
    assert [(host.name, list(host.domains)) for host in message.virtual_hosts] == [
        ("one", ["one", "one:*"]),
        ("two", ["two", "two:*"]),
        ("*", ["*"]),
    ]
    for host in message.virtual_hosts:
        *passing, refusal = host.routes
        assert refusal.direct_response.status == 403
        for route in passing:
            assert route.request_body_buffer_limit.value >= 64 * 1024 * 1024
            assert route.route.timeout.ToSeconds() == 0
            # Zero uses the client's deadline unchanged; absent would ignore it.
            assert route.route.max_stream_duration.HasField("grpc_timeout_header_max")


def test_a_snapshot_answers_questions_about_drains() -> None:
    service = ServiceCatalog("triton", (A, replace(B, draining=True)), Leader("b", 1))
    snapshot = build(Catalog((service,)), EDGE)
    assert snapshot.routes_to("triton", "a")
    assert not snapshot.routes_to("triton", "b")
    assert not snapshot.routes_to("other", "a")
    assert snapshot.find("triton", "b") == replace(B, draining=True)
    assert snapshot.find("triton", "gone") is None
    assert snapshot.find("other", "a") is None
