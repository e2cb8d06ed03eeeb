"""An Envoy that reconnects with clusters and routes of an earlier stream."""

from dataclasses import replace
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2

from sidecar.xds.ads.ads_stream import DeltaStream
from sidecar.xds.config import clusters as resources
from sidecar.xds.config.endpoints import Assignment
from sidecar.xds.config.snapshot import (
    CLUSTER,
    ENDPOINT,
    ROUTE,
)
from tests.support.xds.ads_client import (
    FIRST,
    NAMES,
    OTHERWISE,
    RELEASE,
    RELEASED,
    SETTLED,
    UNSETTLED,
    A,
    B,
    Opened,
    acknowledge,
    confirm,
    delta,
    follow_all,
    names_of,
    offered,
    only,
    request_endpoints,
    resume,
    snapshot,
    sotw,
    warm,
)
from tests.support.xds.ads_client import opened as opened


def test_an_envoy_that_reconnects_is_answered(opened: Opened) -> None:
    stream, ask = opened
    version = FIRST.of(ENDPOINT)["triton"].version
    if ask is sotw:
        stream.receive(ask(ENDPOINT, "triton", version=version))
    else:
        stream.receive(ask(ENDPOINT, "triton", has={"triton": version}))
    assert names_of(only(stream, FIRST)) == ["triton"]


def test_a_reconnecting_envoy_keeps_a_cluster_until_its_routes_are_known() -> None:
    stream = DeltaStream()
    versions = {name: found.version for name, found in RELEASED.of(CLUSTER).items()}
    old = RELEASED.of(ROUTE)["triton"].version
    stream.receive(delta(CLUSTER, has=versions))
    reply = only(stream, FIRST)
    assert (names_of(reply), reply.removed) == ([], ())
    acknowledge((stream, delta), reply)
    stream.receive(delta(ROUTE, "triton", has={"triton": old}))
    reply = only(stream, FIRST)
    assert reply.type_url == ROUTE
    stream.drop_inherited(RELEASE)
    assert list(stream.offers(FIRST)) == []
    acknowledge((stream, delta), reply)
    assert only(stream, FIRST).removed == (RELEASE,)


def test_a_reconnecting_envoy_keeps_a_cluster_until_nothing_is_in_flight_on_it() -> None:
    """And gets its endpoints: retries must not be sent to withdrawn instances."""
    stream = DeltaStream()
    versions = {name: found.version for name, found in RELEASED.of(CLUSTER).items()}
    stream.receive(delta(CLUSTER, has=versions))
    stream.receive(delta(ENDPOINT, *versions))
    routes = {"triton": FIRST.of(ROUTE)["triton"].version}
    stream.receive(delta(ROUTE, "triton", has=routes))
    replies = follow_all(stream, FIRST)
    assert replies[CLUSTER].removed == ()
    assert names_of(replies[ENDPOINT]) == sorted(versions)
    assert not stream.acknowledges_without("triton", "a")
    gone = snapshot(replace(A, draining=True), B)
    assert names_of(follow_all(stream, gone)[ENDPOINT]) == sorted(versions)
    assert stream.acknowledges_without("triton", "a")
    stream.drop_inherited(RELEASE)
    assert follow_all(stream, gone)[CLUSTER].removed == (RELEASE,)
    assert stream.inherited == frozenset()


def test_endpoints_of_inherited_clusters_are_built_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    newest = snapshot(A, replace(B, weight=77))
    made, of_endpoints = [], resources.load_assignment

    def load_assignment(assignment: Assignment) -> Any:
        made.append(assignment.cluster)
        return of_endpoints(assignment)

    monkeypatch.setattr(resources, "load_assignment", load_assignment)
    for _ in range(3):  # Envoys
        stream = DeltaStream()
        resume((stream, delta), OTHERWISE)
        for _ in range(3):
            list(stream.offers(newest))
    assert made == [OTHERWISE]


def test_the_clusters_of_an_unknown_service_are_removed_at_once() -> None:
    stream = DeltaStream()
    stream.receive(delta(CLUSTER, has={"other": "1", "triton": "1"}))
    routes = {"triton": FIRST.of(ROUTE)["triton"].version}
    stream.receive(delta(ROUTE, "triton", has=routes))
    assert only(stream, FIRST).removed == ("other",)


def test_routes_stay_on_a_serving_cluster_while_its_service_is_unsettled(
    opened: Opened,
) -> None:
    resume(opened, OTHERWISE)
    replies = warm(opened, UNSETTLED)
    assert ROUTE not in replies
    assert CLUSTER not in replies or (opened[1] is delta and not replies[CLUSTER].removed)
    assert OTHERWISE in opened[0].subscriptions[ENDPOINT].names
    assert ROUTE in warm(opened, SETTLED)


def test_a_reconnecting_envoy_keeps_a_cluster_of_another_name_until_routes_have_left_it(
    opened: Opened,
) -> None:
    """Of another policy, or of a control plane that configures clusters differently."""
    stream = opened[0]
    resume(opened, OTHERWISE)
    replies = {reply.type_url: reply for reply in stream.offers(SETTLED)}
    assert ROUTE not in replies
    assert names_of(replies[ENDPOINT]) == [OTHERWISE]
    if opened[1] is sotw:
        assert names_of(replies[CLUSTER]) == ["triton", OTHERWISE]
        plain, likewise = (cluster_pb2.Cluster() for _ in range(2))
        for found, message in zip(replies[CLUSTER].resources, (plain, likewise), strict=True):
            found.body.Unpack(message)
        plain.name, plain.alt_stat_name = OTHERWISE, "triton"
        assert likewise == plain
    else:
        assert (names_of(replies[CLUSTER]), replies[CLUSTER].removed) == (["triton"], ())
    for reply in replies.values():
        confirm(opened, reply, *(NAMES | {ENDPOINT: (OTHERWISE,)}).get(reply.type_url, ()))
    request_endpoints(opened, OTHERWISE, "triton", nonce=replies[ENDPOINT].nonce)
    if opened[1] is delta:
        stream.receive(delta(ENDPOINT, "triton"))
    last = warm(opened, SETTLED)
    assert ROUTE in last
    assert stream.inherited == {OTHERWISE}
    stream.drop_inherited(OTHERWISE)
    due = offered(opened, SETTLED)
    assert due.keys() == {CLUSTER}
    assert names_of(due[CLUSTER]) == (["triton"] if opened[1] is sotw else [])


@pytest.mark.parametrize(
    ("clusters", "routes"), [(("triton",), "old"), ((OTHERWISE,), ""), ((), "old")]
)
def test_routes_are_sent_if_nothing_can_be_lost(
    opened: Opened, clusters: tuple[str, ...], routes: str
) -> None:
    """Envoy has that cluster, has no routes at all, or has nothing of the service."""
    resume(opened, *clusters, routes=routes)
    assert ROUTE in warm(opened, UNSETTLED)


def test_an_envoy_that_reconnects_with_current_routes_may_lose_an_empty_cluster_at_once() -> None:
    stream = DeltaStream()
    versions = {name: found.version for name, found in RELEASED.of(CLUSTER).items()}
    stream.receive(delta(CLUSTER, has=versions))
    current = FIRST.of(ROUTE)["triton"].version
    stream.receive(delta(ROUTE, "triton", has={"triton": current}))
    stream.drop_inherited(RELEASE)
    assert only(stream, FIRST).removed == (RELEASE,)
