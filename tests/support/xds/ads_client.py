"""A small reference client of ADS, for both variants, that follows only the protocol's rules."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from envoy.service.discovery.v3 import discovery_pb2

from sidecar.traffic.policy import DEFAULTS, Connection, Release, TrafficPolicy
from sidecar.xds.ads.ads_stream import AdsStream, DeltaStream, SotwStream
from sidecar.xds.ads.subscription import Reply
from sidecar.xds.catalog.catalog import Catalog, Instance, Leader, ServiceCatalog
from sidecar.xds.config.edge import Edge
from sidecar.xds.config.snapshot import (
    CLUSTER,
    ENDPOINT,
    LISTENER,
    ORDER,
    ROUTE,
    RUNTIME,
    Snapshot,
    build,
)

EDGE = Edge()


def tuning(timeout: float) -> TrafficPolicy:
    """A policy that changes the clusters of a `snapshot` in place."""
    return replace(DEFAULTS, connection=Connection(connect_timeout=timeout))


# The resources to which Envoy subscribes by name.
NAMES = dict.fromkeys((RUNTIME, ENDPOINT, ROUTE), ("triton",))
A = Instance("a", "10.0.0.1", 8001, 9001)
B = Instance("b", "10.0.0.2", 8001, 9001, tags=("new",))


def snapshot(
    *instances: Instance, leader: str = "a", policy: TrafficPolicy = DEFAULTS, extra: str = ""
) -> Snapshot:
    """A snapshot whose changed clusters keep their names, as between versions of the code."""
    services = [ServiceCatalog("triton", instances, Leader(leader, 1), policy=policy)]
    if extra:
        services.append(ServiceCatalog(extra, instances, policy=policy))
    with pytest.MonkeyPatch.context() as patched:
        for module in ("lingering", "snapshot"):
            patched.setattr(f"sidecar.xds.config.{module}.generation", lambda *_, **__: "")
        return build(Catalog(tuple(services)), EDGE)


RELEASE = "triton~release"
RELEASING = replace(DEFAULTS, release=Release(tag="new", percent=50))
FIRST = snapshot(A, B)
RELEASED = snapshot(A, B, policy=RELEASING)
SWAPPED = snapshot(A, B, leader="b")
TUNED = snapshot(A, B, policy=tuning(9.0))


def refusal(request: Any, reason: str) -> Any:
    request.error_detail.message = reason
    return request


def sotw(
    type_url: str, *names: str, version: str = "", nonce: str = "", error: str | None = None
) -> Any:
    request = discovery_pb2.DiscoveryRequest(
        type_url=type_url, resource_names=names, version_info=version, response_nonce=nonce
    )
    return request if error is None else refusal(request, error)


def delta(
    type_url: str,
    *names: str,
    gone: tuple[str, ...] = (),
    has: dict[str, str] | None = None,
    nonce: str = "",
    error: str | None = None,
) -> Any:
    request = discovery_pb2.DeltaDiscoveryRequest(
        type_url=type_url,
        resource_names_subscribe=names,
        resource_names_unsubscribe=gone,
        initial_resource_versions=has or {},
        response_nonce=nonce,
    )
    return request if error is None else refusal(request, error)


def names_of(reply: Reply) -> list[str]:
    return sorted(resource.name for resource in reply.resources)


def only(stream: AdsStream, newest: Snapshot) -> Reply:
    [reply] = stream.offers(newest)
    return reply


Opened = tuple[AdsStream, Callable[..., Any]]


@pytest.fixture(params=["sotw", "delta"])
def opened(request: pytest.FixtureRequest) -> Opened:
    if request.param == "sotw":
        return SotwStream(), sotw
    return DeltaStream(), delta


def follow(opened: Opened, newest: Snapshot) -> dict[str, Reply]:
    """Subscribe to everything as Envoy does, and acknowledge it."""
    stream, ask = opened
    replies = {}
    for type_url in ORDER:
        stream.receive(ask(type_url, *NAMES.get(type_url, ())))
    for reply in stream.offers(newest):
        replies[reply.type_url] = reply
        acknowledge(opened, reply)
    return replies


def acknowledge(opened: Opened, reply: Reply, error: str | None = None) -> Any:
    stream, ask = opened
    names = NAMES.get(reply.type_url, ())
    if ask is sotw:
        return stream.receive(
            ask(reply.type_url, *names, version=reply.version, nonce=reply.nonce, error=error)
        )
    return stream.receive(ask(reply.type_url, nonce=reply.nonce, error=error))


# A cluster that is added and removed with a release.
def request_endpoints(opened: Opened, *names: str, nonce: str = "") -> None:
    """Subscribe to exactly these endpoints, instead of to `triton`."""
    stream, ask = opened
    if ask is sotw:
        stream.receive(ask(ENDPOINT, *names, nonce=nonce))
    elif RELEASE in names:
        stream.receive(ask(ENDPOINT, RELEASE))
    else:
        stream.receive(ask(ENDPOINT, gone=(RELEASE,)))


def confirm(opened: Opened, reply: Reply, *names: str) -> None:
    stream, ask = opened
    if ask is sotw:
        stream.receive(ask(reply.type_url, *names, nonce=reply.nonce))
    else:
        stream.receive(ask(reply.type_url, nonce=reply.nonce))


def offered(opened: Opened, newest: Snapshot) -> dict[str, Reply]:
    return {reply.type_url: reply for reply in opened[0].offers(newest)}


def with_release(opened: Opened) -> None:
    """An Envoy that has a release, after all the protocol's steps."""
    follow(opened, FIRST)
    due = offered(opened, RELEASED)
    # The routes to the new cluster are not sent yet.
    assert due.keys() == {RUNTIME, CLUSTER}
    assert RELEASE in names_of(due[CLUSTER])
    confirm(opened, due[RUNTIME], "triton")
    request_endpoints(opened, "triton", RELEASE, nonce="1")
    due = {CLUSTER: due[CLUSTER], **offered(opened, RELEASED)}
    assert due.keys() == {CLUSTER, ENDPOINT}
    confirm(opened, due[ENDPOINT], "triton", RELEASE)
    assert offered(opened, RELEASED) == {}  # Envoy is warming the cluster
    confirm(opened, due[CLUSTER])
    due = offered(opened, RELEASED)
    assert due.keys() == {ROUTE}
    confirm(opened, due[ROUTE], "triton")
    assert offered(opened, RELEASED) == {}


# A control plane that was restarted and does not have the resources that Envoy has.
UNSETTLED = build(Catalog((ServiceCatalog("triton", settled=False),)), EDGE)
SETTLED = build(Catalog((ServiceCatalog("triton", (A, B)),)), EDGE)
OTHERWISE = "triton~abcd"


def resume(opened: Opened, *clusters: str, routes: str = "old") -> None:
    """Subscribe to everything on a new stream, in the order of an Envoy that has these clusters."""
    stream, ask = opened
    has = {CLUSTER: clusters, ENDPOINT: clusters, LISTENER: ("triton",)}
    for type_url in ORDER:
        names = clusters if type_url == ENDPOINT else NAMES.get(type_url, ())
        version = routes if type_url == ROUTE else "old"
        if ask is sotw:
            stream.receive(ask(type_url, *names, version=version))
        else:
            versions = dict.fromkeys(has.get(type_url, names), version) if version else {}
            stream.receive(ask(type_url, *names, has=versions))


def warm(opened: Opened, newest: Snapshot) -> dict[str, Reply]:
    """Acknowledge every reply until there are no more; gives the last reply of each type."""
    replies: dict[str, Reply] = {}
    stream, ask = opened
    for _ in range(5):
        for reply in stream.offers(newest):
            replies[reply.type_url] = reply
            endpoints = stream.subscriptions[ENDPOINT].names
            names = tuple(endpoints) if reply.type_url == ENDPOINT else ()
            confirm(opened, reply, *(names or NAMES.get(reply.type_url, ())))
            if reply.type_url == CLUSTER:
                gone, named = (() if ask is sotw else reply.removed), {*names_of(reply)}
                now = named if ask is sotw else {*endpoints, *named} - {*gone}
                nonce = replies[ENDPOINT].nonce if ENDPOINT in replies else ""
                if ask is sotw:
                    stream.receive(ask(ENDPOINT, *sorted(now), nonce=nonce))
                else:
                    stream.receive(ask(ENDPOINT, *sorted(now - endpoints), gone=gone))
    return replies


def follow_all(stream: AdsStream, newest: Snapshot) -> dict[str, Reply]:
    """Acknowledge the replies that are due; gives them by type."""
    replies = {reply.type_url: reply for reply in stream.offers(newest)}
    for reply in replies.values():
        acknowledge((stream, delta), reply)
    return replies
