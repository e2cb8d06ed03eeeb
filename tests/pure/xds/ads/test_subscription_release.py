"""A cluster that a release adds and removes: before the first route to it, after the last."""

from dataclasses import replace

from sidecar.xds.config.snapshot import (
    CLUSTER,
    ENDPOINT,
    ROUTE,
    RUNTIME,
)
from tests.support.xds.ads_client import (
    FIRST,
    RELEASE,
    RELEASED,
    RELEASING,
    SWAPPED,
    A,
    B,
    Opened,
    acknowledge,
    confirm,
    names_of,
    offered,
    request_endpoints,
    snapshot,
    sotw,
    with_release,
)
from tests.support.xds.ads_client import opened as opened


def test_routes_wait_for_their_cluster_and_its_endpoints(opened: Opened) -> None:
    with_release(opened)


def test_a_cluster_is_removed_after_the_routes_to_it(opened: Opened) -> None:
    with_release(opened)
    due = offered(opened, FIRST)
    assert due.keys() == {RUNTIME, ROUTE}
    confirm(opened, due[RUNTIME], "triton")
    assert offered(opened, FIRST) == {}
    confirm(opened, due[ROUTE], "triton")
    due = offered(opened, FIRST)
    assert due.keys() == {CLUSTER}
    if opened[1] is sotw:
        assert names_of(due[CLUSTER]) == ["triton"]
    else:
        assert due[CLUSTER].removed == (RELEASE,)
    confirm(opened, due[CLUSTER])
    request_endpoints(opened, "triton", nonce="2")
    assert offered(opened, FIRST) == {}


def test_a_cluster_stays_while_the_routes_to_it_are_in_use(opened: Opened) -> None:
    with_release(opened)
    due = offered(opened, FIRST)
    acknowledge(opened, due[ROUTE], error="no")
    confirm(opened, due[RUNTIME], "triton")
    assert offered(opened, FIRST) == {}
    # Other changes are sent in the meantime, and the old cluster keeps its last endpoints.
    due = offered(opened, SWAPPED)
    assert due.keys() == {ENDPOINT}
    if opened[1] is sotw:
        assert names_of(due[ENDPOINT]) == ["triton", RELEASE]
        kept = due[ENDPOINT].snapshot.of(ENDPOINT)[RELEASE]
        assert kept == RELEASED.of(ENDPOINT)[RELEASE]
    else:
        assert names_of(due[ENDPOINT]) == ["triton"]


def test_a_release_that_returns_before_its_removal_needs_no_new_cluster(opened: Opened) -> None:
    with_release(opened)
    due = offered(opened, FIRST)
    for reply in due.values():
        confirm(opened, reply, "triton")
    due = offered(opened, RELEASED)
    assert due.keys() == {RUNTIME, ROUTE}


def test_routes_wait_for_a_cluster_that_returns_while_its_removal_is_in_flight(
    opened: Opened,
) -> None:
    with_release(opened)
    for reply in offered(opened, FIRST).values():
        confirm(opened, reply, "triton")
    [removal] = opened[0].offers(FIRST)
    due = offered(opened, RELEASED)
    assert due.keys() == {RUNTIME}
    confirm(opened, due[RUNTIME], "triton")
    confirm(opened, removal)
    request_endpoints(opened, "triton", nonce="2")
    [again] = [each for each in opened[0].offers(RELEASED) if each.type_url == CLUSTER]
    assert RELEASE in names_of(again)
    request_endpoints(opened, "triton", RELEASE, nonce="2")
    confirm(opened, offered(opened, RELEASED)[ENDPOINT], "triton", RELEASE)
    confirm(opened, again)
    assert offered(opened, RELEASED).keys() == {ROUTE}


def test_an_instance_is_withdrawn_when_no_cluster_has_it(opened: Opened) -> None:
    with_release(opened)
    stream = opened[0]
    assert not stream.acknowledges_without("triton", "a")
    gone = snapshot(replace(A, draining=True), B, policy=RELEASING)
    due = offered(opened, gone)
    assert names_of(due[ENDPOINT]) == ["triton", RELEASE]
    assert not stream.acknowledges_without("triton", "a")
    confirm(opened, due[ENDPOINT], "triton", RELEASE)
    assert stream.acknowledges_without("triton", "a")


def test_the_kept_endpoints_of_a_cluster_count_until_it_is_removed(opened: Opened) -> None:
    with_release(opened)
    stream = opened[0]
    gone = snapshot(replace(A, draining=True), B)  # the release ends at the same time
    due = offered(opened, gone)
    for type_url in (RUNTIME, ROUTE):
        confirm(opened, due[type_url], "triton")
    confirm(opened, due[ENDPOINT], "triton", RELEASE)
    assert not stream.acknowledges_without("triton", "a")
    confirm(opened, offered(opened, gone)[CLUSTER])
    request_endpoints(opened, "triton", nonce=due[ENDPOINT].nonce)
    assert stream.acknowledges_without("triton", "a")
