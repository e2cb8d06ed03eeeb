"""The subscriptions against a small reference client, which knows only the protocol's rules."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.service.discovery.v3 import discovery_pb2
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar.traffic.policy import DEFAULTS, Connection, Release, TrafficPolicy
from sidecar.xds.ads.ads_stream import AdsStream, DeltaStream, SotwStream
from sidecar.xds.ads.encoder import Encoder
from sidecar.xds.ads.subscription import Acked, Nacked, Reply
from sidecar.xds.catalog.catalog import Catalog, Health, Instance, Leader, ServiceCatalog
from sidecar.xds.config import clusters as resources
from sidecar.xds.config.edge import Edge
from sidecar.xds.config.endpoints import Assignment
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
    """A policy by which the clusters of a `snapshot` change in place."""
    return replace(DEFAULTS, connection=Connection(connect_timeout=timeout))


# What Envoy subscribes to by name.
NAMES = dict.fromkeys((RUNTIME, ENDPOINT, ROUTE), ("triton",))
A = Instance("a", "10.0.0.1", 8001, 9001)
B = Instance("b", "10.0.0.2", 8001, 9001, tags=("new",))


def snapshot(
    *instances: Instance, leader: str = "a", policy: TrafficPolicy = DEFAULTS, extra: str = ""
) -> Snapshot:
    """Clusters keep their names when they change, as between versions of the control plane."""
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


def told(reply: Reply) -> list[str]:
    return sorted(resource.name for resource in reply.resources)


def only(conversation: AdsStream, newest: Snapshot) -> Reply:
    [reply] = conversation.offers(newest)
    return reply


Opened = tuple[AdsStream, Callable[..., Any]]


@pytest.fixture(params=["sotw", "delta"])
def opened(request: pytest.FixtureRequest) -> Opened:
    if request.param == "sotw":
        return SotwStream(), sotw
    return DeltaStream(), delta


def follow(opened: Opened, newest: Snapshot) -> dict[str, Reply]:
    """Subscribe to everything as Envoy does, and acknowledge it."""
    conversation, ask = opened
    replies = {}
    for type_url in ORDER:
        conversation.receive(ask(type_url, *NAMES.get(type_url, ())))
    for reply in conversation.offers(newest):
        replies[reply.type_url] = reply
        acknowledge(opened, reply)
    return replies


def acknowledge(opened: Opened, reply: Reply, error: str | None = None) -> Any:
    conversation, ask = opened
    names = NAMES.get(reply.type_url, ())
    if ask is sotw:
        return conversation.receive(
            ask(reply.type_url, *names, version=reply.version, nonce=reply.nonce, error=error)
        )
    return conversation.receive(ask(reply.type_url, nonce=reply.nonce, error=error))


def test_everything_is_told_in_order_and_once(opened: Opened) -> None:
    replies = follow(opened, FIRST)
    assert tuple(replies) == ORDER
    assert list(opened[0].offers(FIRST)) == []
    assert not any(reply.news for reply in replies.values())


def test_a_change_is_told_to_whom_it_concerns(opened: Opened) -> None:
    follow(opened, FIRST)
    reply = only(opened[0], SWAPPED)
    assert (reply.type_url, told(reply), reply.news) == (ENDPOINT, ["triton"], True)
    assert isinstance(acknowledge(opened, reply), Acked)
    assert list(opened[0].offers(SWAPPED)) == []


def test_a_slow_envoy_jumps_to_the_newest(opened: Opened) -> None:
    follow(opened, FIRST)
    first = only(opened[0], SWAPPED)
    newest = snapshot(B)
    assert list(opened[0].offers(newest)) == []  # one at a time
    acknowledge(opened, first)
    assert only(opened[0], newest).resources[0] == newest.of(ENDPOINT)["triton"]


def test_a_refused_configuration_is_told_again_only_when_it_changes(opened: Opened) -> None:
    follow(opened, FIRST)
    outcome = acknowledge(opened, only(opened[0], SWAPPED), error="no")
    assert isinstance(outcome, Nacked)
    assert outcome.reason == "no"
    assert list(opened[0].offers(SWAPPED)) == []
    assert list(opened[0].offers(FIRST)) == []  # Envoy still has it
    assert told(only(opened[0], snapshot(B))) == ["triton"]


def test_a_changed_cluster_is_followed_by_its_unchanged_endpoints(opened: Opened) -> None:
    follow(opened, FIRST)
    clusters, endpoints = opened[0].offers(TUNED)
    assert (clusters.type_url, endpoints.type_url) == (CLUSTER, ENDPOINT)
    assert endpoints.resources[0] == FIRST.of(ENDPOINT)["triton"]
    assert not endpoints.news
    for reply in (clusters, endpoints):
        acknowledge(opened, reply)
    assert list(opened[0].offers(TUNED)) == []


def test_an_envoy_that_reconnects_is_answered(opened: Opened) -> None:
    conversation, ask = opened
    version = FIRST.of(ENDPOINT)["triton"].version
    if ask is sotw:
        conversation.receive(ask(ENDPOINT, "triton", version=version))
    else:
        conversation.receive(ask(ENDPOINT, "triton", has={"triton": version}))
    assert told(only(conversation, FIRST)) == ["triton"]


def test_only_a_confirmed_withdrawal_counts(opened: Opened) -> None:
    follow(opened, FIRST)
    conversation = opened[0]
    assert not conversation.acknowledges_without("triton", "a")
    withdrawn = snapshot(replace(A, draining=True), B)
    limits, reply = conversation.offers(withdrawn)
    assert limits.type_url == RUNTIME  # or the last good one could be ejected in between
    acknowledge(opened, limits)
    assert not conversation.acknowledges_without("triton", "a")
    acknowledge(opened, reply)
    assert conversation.acknowledges_without("triton", "a")
    assert not conversation.acknowledges_without("triton", "b")
    assert not conversation.acknowledges_without("other", "a")


def test_a_refused_withdrawal_does_not_count(opened: Opened) -> None:
    follow(opened, FIRST)
    acknowledge(opened, only(opened[0], snapshot(B)), error="no")
    assert not opened[0].acknowledges_without("triton", "a")


def test_nothing_is_said_about_what_is_not_known(opened: Opened) -> None:
    conversation, ask = opened
    unknown = build(Catalog((ServiceCatalog("triton", settled=False),)), EDGE)
    conversation.receive(ask(ENDPOINT, "triton"))
    assert list(conversation.offers(unknown)) == []
    assert told(only(conversation, FIRST)) == ["triton"]


def test_a_type_that_we_do_not_serve_is_not_answered(opened: Opened) -> None:
    conversation, ask = opened
    conversation.receive(ask("type.googleapis.com/envoy.Secret", "x"))
    assert list(conversation.offers(FIRST)) == []


def test_a_name_asked_for_later_is_told(opened: Opened) -> None:
    follow(opened, snapshot(A, extra="other"))
    conversation, ask = opened
    if ask is sotw:
        conversation.receive(ask(ENDPOINT, "triton", "other", nonce="1"))
        expected = ["other", "triton"]
    else:
        conversation.receive(ask(ENDPOINT, "other"))
        expected = ["other"]
    assert told(only(conversation, snapshot(A, extra="other"))) == expected


def test_an_answer_to_an_older_reply_is_ignored() -> None:
    opened = SotwStream(), sotw
    follow(opened, FIRST)
    reply = only(opened[0], SWAPPED)
    assert opened[0].receive(sotw(ENDPOINT, "triton", nonce="1")) is None
    assert list(opened[0].offers(snapshot(B))) == []  # still waiting for the real one
    assert isinstance(acknowledge(opened, reply), Acked)


def test_a_star_means_all_and_naming_none_after_a_name_means_none() -> None:
    conversation = SotwStream()
    conversation.receive(sotw(CLUSTER, "*"))
    reply = only(conversation, FIRST)
    assert told(reply) == ["triton"]
    conversation.receive(sotw(CLUSTER, nonce=reply.nonce))
    assert list(conversation.offers(TUNED)) == []


def test_delta_star_and_back() -> None:
    conversation = DeltaStream()
    conversation.receive(delta(CLUSTER, "*"))
    reply = only(conversation, FIRST)
    assert told(reply) == ["triton"]
    conversation.receive(delta(CLUSTER, gone=("*",), nonce=reply.nonce))
    assert list(conversation.offers(TUNED)) == []


def test_delta_tells_what_is_gone() -> None:
    conversation = DeltaStream()
    conversation.receive(delta(CLUSTER))
    both = snapshot(A, extra="other")
    acknowledge((conversation, delta), only(conversation, both))
    reply = only(conversation, snapshot(A))
    assert (told(reply), reply.removed) == ([], ("other",))
    acknowledge((conversation, delta), reply)
    assert list(conversation.offers(snapshot(A))) == []
    assert told(only(conversation, both)) == ["other"]


def test_delta_removes_what_an_envoy_has_from_before() -> None:
    conversation = DeltaStream()
    version = FIRST.of(CLUSTER)["triton"].version
    conversation.receive(delta(CLUSTER, has={"triton": version, "ancient": "1"}))
    current = FIRST.of(ROUTE)["triton"].version
    conversation.receive(delta(ROUTE, "triton", has={"triton": current}))
    reply = only(conversation, FIRST)
    assert (told(reply), reply.removed) == ([], ("ancient",))


def test_delta_finds_out_which_resource_of_a_refused_reply_is_bad() -> None:
    conversation = DeltaStream()
    conversation.receive(delta(CLUSTER))
    opened, newest = (conversation, delta), snapshot(A, extra="other")
    acknowledge(opened, only(conversation, newest), error="triton is bad")
    reply = only(conversation, newest)
    assert told(reply) == ["other"]
    acknowledge(opened, reply)
    reply = only(conversation, newest)
    assert told(reply) == ["triton"]
    acknowledge(opened, reply, error="triton is bad")
    assert list(conversation.offers(newest)) == []
    # It is mended.
    tuned = snapshot(A, policy=tuning(9.0), extra="other")
    assert told(only(conversation, tuned)) == ["other", "triton"]


def test_delta_greets_an_envoy_that_has_everything() -> None:
    conversation = DeltaStream()
    version = FIRST.of(CLUSTER)["triton"].version
    conversation.receive(delta(CLUSTER, has={"triton": version}))
    reply = only(conversation, FIRST)
    assert (told(reply), reply.removed) == ([], ())


def test_delta_resends_what_is_asked_for_again_and_forgets_what_is_not_wanted() -> None:
    opened = DeltaStream(), delta
    follow(opened, FIRST)
    conversation = opened[0]
    conversation.receive(delta(ENDPOINT, "triton"))
    reply = only(conversation, FIRST)
    assert told(reply) == ["triton"]
    conversation.receive(delta(ENDPOINT, gone=("triton",), nonce=reply.nonce))
    assert list(conversation.offers(SWAPPED)) == []


def plain(reply: Reply, is_delta: bool) -> Any:
    """The reply as an ordinary message."""
    told = {"type_url": reply.type_url, "nonce": reply.nonce}
    if not is_delta:
        bodies = [found.body for found in reply.resources]
        return discovery_pb2.DiscoveryResponse(version_info=reply.version, resources=bodies, **told)
    return discovery_pb2.DeltaDiscoveryResponse(
        system_version_info=reply.version,
        removed_resources=reply.removed,
        resources=[
            discovery_pb2.Resource(name=found.name, version=found.version, resource=found.body)
            for found in reply.resources
        ],
        **told,
    )


@pytest.mark.parametrize("kept", [0, 1 << 20])
def test_a_reply_put_together_from_pieces_is_the_ordinary_message(kept: int) -> None:
    wire = Encoder(kept)
    for _ in range(3):  # three Envoys
        for reply in follow((SotwStream(), sotw), RELEASED).values():
            read = discovery_pb2.DiscoveryResponse.FromString(wire.state_of_the_world(reply))
            assert read == plain(reply, is_delta=False)
        opened = DeltaStream(), delta
        for reply in (*follow(opened, RELEASED).values(), *opened[0].offers(SWAPPED)):
            read = discovery_pb2.DeltaDiscoveryResponse.FromString(wire.delta(reply))
            assert read == plain(reply, is_delta=True)


def test_a_resource_is_serialised_once_for_all_envoys() -> None:
    wire = Encoder()
    for _ in range(100):
        for reply in follow((DeltaStream(), delta), RELEASED).values():
            wire.delta(reply)
    assert wire.made == sum(
        len(reply.resources) for reply in follow((DeltaStream(), delta), RELEASED).values()
    )


def test_a_stream_that_never_answers_is_owed_one_reply_per_type(opened: Opened) -> None:
    conversation, ask = opened
    for type_url in ORDER:
        conversation.receive(ask(type_url, *NAMES.get(type_url, ())))
    sent = []
    various = [snapshot(A, B, policy=tuning(1.0 + turn)) for turn in range(10)]
    for turn in range(1000):
        sent += list(conversation.offers(various[turn % 10]))
    # Routes are held: their cluster was not acknowledged.
    assert [reply.type_url for reply in sent] == [RUNTIME, CLUSTER, ENDPOINT, LISTENER]


def test_nothing_is_kept_but_what_was_acknowledged(opened: Opened) -> None:
    follow(opened, RELEASED)
    for type_url, subscription in opened[0].subscriptions.items():
        for name, kept in subscription.acknowledged.items():
            assert kept.of(type_url)[name] is RELEASED.of(type_url)[name]
            assert kept.resources.keys() == {type_url}
            assert bool(kept.assignments) is (type_url == ENDPOINT)
            assert kept.routed == (RELEASED.routed if type_url == ROUTE else ())


# A cluster that comes and goes, with a release.


def request_endpoints(opened: Opened, *names: str, nonce: str = "") -> None:
    """Ask for exactly these endpoints, where `triton` was asked for before."""
    conversation, ask = opened
    if ask is sotw:
        conversation.receive(ask(ENDPOINT, *names, nonce=nonce))
    elif RELEASE in names:
        conversation.receive(ask(ENDPOINT, RELEASE))
    else:
        conversation.receive(ask(ENDPOINT, gone=(RELEASE,)))


def confirm(opened: Opened, reply: Reply, *names: str) -> None:
    conversation, ask = opened
    if ask is sotw:
        conversation.receive(ask(reply.type_url, *names, nonce=reply.nonce))
    else:
        conversation.receive(ask(reply.type_url, nonce=reply.nonce))


def offered(opened: Opened, newest: Snapshot) -> dict[str, Reply]:
    return {reply.type_url: reply for reply in opened[0].offers(newest)}


def with_release(opened: Opened) -> None:
    """An Envoy that knows a release, by all the steps that it takes."""
    follow(opened, FIRST)
    due = offered(opened, RELEASED)
    # The routes to the new cluster wait.
    assert due.keys() == {RUNTIME, CLUSTER}
    assert RELEASE in told(due[CLUSTER])
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


def test_routes_wait_for_their_cluster_and_its_endpoints(opened: Opened) -> None:
    with_release(opened)


def test_a_cluster_goes_after_the_routes_to_it(opened: Opened) -> None:
    with_release(opened)
    due = offered(opened, FIRST)
    assert due.keys() == {RUNTIME, ROUTE}
    confirm(opened, due[RUNTIME], "triton")
    assert offered(opened, FIRST) == {}
    confirm(opened, due[ROUTE], "triton")
    due = offered(opened, FIRST)
    assert due.keys() == {CLUSTER}
    if opened[1] is sotw:
        assert told(due[CLUSTER]) == ["triton"]
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
    # Other changes go out meanwhile, and the old cluster keeps its last endpoints.
    due = offered(opened, SWAPPED)
    assert due.keys() == {ENDPOINT}
    if opened[1] is sotw:
        assert told(due[ENDPOINT]) == ["triton", RELEASE]
        kept = due[ENDPOINT].snapshot.of(ENDPOINT)[RELEASE]
        assert kept == RELEASED.of(ENDPOINT)[RELEASE]
    else:
        assert told(due[ENDPOINT]) == ["triton"]


def test_a_release_that_comes_back_before_it_has_gone_needs_no_new_cluster(opened: Opened) -> None:
    with_release(opened)
    due = offered(opened, FIRST)
    for reply in due.values():
        confirm(opened, reply, "triton")
    due = offered(opened, RELEASED)
    assert due.keys() == {RUNTIME, ROUTE}


def test_routes_wait_for_a_cluster_that_comes_back_while_its_removal_is_on_its_way(
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
    assert RELEASE in told(again)
    request_endpoints(opened, "triton", RELEASE, nonce="2")
    confirm(opened, offered(opened, RELEASED)[ENDPOINT], "triton", RELEASE)
    confirm(opened, again)
    assert offered(opened, RELEASED).keys() == {ROUTE}


def test_an_instance_is_withdrawn_when_no_cluster_has_it(opened: Opened) -> None:
    with_release(opened)
    conversation = opened[0]
    assert not conversation.acknowledges_without("triton", "a")
    gone = snapshot(replace(A, draining=True), B, policy=RELEASING)
    due = offered(opened, gone)
    assert told(due[ENDPOINT]) == ["triton", RELEASE]
    assert not conversation.acknowledges_without("triton", "a")
    confirm(opened, due[ENDPOINT], "triton", RELEASE)
    assert conversation.acknowledges_without("triton", "a")


def test_the_kept_endpoints_of_a_cluster_count_until_it_is_gone(opened: Opened) -> None:
    with_release(opened)
    conversation = opened[0]
    gone = snapshot(replace(A, draining=True), B)  # the release ends at the same time
    due = offered(opened, gone)
    for type_url in (RUNTIME, ROUTE):
        confirm(opened, due[type_url], "triton")
    confirm(opened, due[ENDPOINT], "triton", RELEASE)
    assert not conversation.acknowledges_without("triton", "a")
    confirm(opened, offered(opened, gone)[CLUSTER])
    request_endpoints(opened, "triton", nonce=due[ENDPOINT].nonce)
    assert conversation.acknowledges_without("triton", "a")


def test_an_envoy_that_comes_back_keeps_a_cluster_until_its_routes_are_known() -> None:
    conversation = DeltaStream()
    versions = {name: found.version for name, found in RELEASED.of(CLUSTER).items()}
    old = RELEASED.of(ROUTE)["triton"].version
    conversation.receive(delta(CLUSTER, has=versions))
    reply = only(conversation, FIRST)
    assert (told(reply), reply.removed) == ([], ())
    acknowledge((conversation, delta), reply)
    conversation.receive(delta(ROUTE, "triton", has={"triton": old}))
    reply = only(conversation, FIRST)
    assert reply.type_url == ROUTE
    conversation.let_go(RELEASE)
    assert list(conversation.offers(FIRST)) == []
    acknowledge((conversation, delta), reply)
    assert only(conversation, FIRST).removed == (RELEASE,)


def test_an_envoy_that_comes_back_keeps_a_cluster_until_nothing_is_in_flight_there() -> None:
    """And is told of its endpoints: what is sent again must not go to whoever is withdrawn."""
    conversation = DeltaStream()
    versions = {name: found.version for name, found in RELEASED.of(CLUSTER).items()}
    conversation.receive(delta(CLUSTER, has=versions))
    conversation.receive(delta(ENDPOINT, *versions))
    routes = {"triton": FIRST.of(ROUTE)["triton"].version}
    conversation.receive(delta(ROUTE, "triton", has=routes))
    replies = follow_all(conversation, FIRST)
    assert replies[CLUSTER].removed == ()
    assert told(replies[ENDPOINT]) == sorted(versions)
    assert not conversation.acknowledges_without("triton", "a")
    gone = snapshot(replace(A, draining=True), B)
    assert told(follow_all(conversation, gone)[ENDPOINT]) == sorted(versions)
    assert conversation.acknowledges_without("triton", "a")
    conversation.let_go(RELEASE)
    assert follow_all(conversation, gone)[CLUSTER].removed == (RELEASE,)
    assert conversation.inherited == frozenset()


def test_endpoints_for_what_envoys_came_with_are_made_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    newest = snapshot(A, replace(B, weight=77))
    made, of_endpoints = [], resources.load_assignment

    def load_assignment(assignment: Assignment) -> Any:
        made.append(assignment.cluster)
        return of_endpoints(assignment)

    monkeypatch.setattr(resources, "load_assignment", load_assignment)
    for _ in range(3):  # Envoys
        conversation = DeltaStream()
        resume((conversation, delta), OTHERWISE)
        for _ in range(3):
            list(conversation.offers(newest))
    assert made == [OTHERWISE]


def test_the_clusters_of_a_service_that_is_not_served_go_at_once() -> None:
    conversation = DeltaStream()
    conversation.receive(delta(CLUSTER, has={"other": "1", "triton": "1"}))
    routes = {"triton": FIRST.of(ROUTE)["triton"].version}
    conversation.receive(delta(ROUTE, "triton", has=routes))
    assert only(conversation, FIRST).removed == ("other",)


# A control plane that was restarted and has forgotten, or not read yet, what Envoy has of it.
UNSETTLED = build(Catalog((ServiceCatalog("triton", settled=False),)), EDGE)
SETTLED = build(Catalog((ServiceCatalog("triton", (A, B)),)), EDGE)
OTHERWISE = "triton~abcd"


def resume(opened: Opened, *clusters: str, routes: str = "old") -> None:
    """Ask for everything as an Envoy that has these clusters does on a new stream, in its order."""
    conversation, ask = opened
    has = {CLUSTER: clusters, ENDPOINT: clusters, LISTENER: ("triton",)}
    for type_url in ORDER:
        names = clusters if type_url == ENDPOINT else NAMES.get(type_url, ())
        version = routes if type_url == ROUTE else "old"
        if ask is sotw:
            conversation.receive(ask(type_url, *names, version=version))
        else:
            versions = dict.fromkeys(has.get(type_url, names), version) if version else {}
            conversation.receive(ask(type_url, *names, has=versions))


def warm(opened: Opened, newest: Snapshot) -> dict[str, Reply]:
    """Acknowledge all that comes until nothing does; gives the last reply of each type."""
    replies: dict[str, Reply] = {}
    conversation, ask = opened
    for _ in range(5):
        for reply in conversation.offers(newest):
            replies[reply.type_url] = reply
            endpoints = conversation.subscriptions[ENDPOINT].names
            names = tuple(endpoints) if reply.type_url == ENDPOINT else ()
            confirm(opened, reply, *(names or NAMES.get(reply.type_url, ())))
            if reply.type_url == CLUSTER:
                gone = () if ask is sotw else reply.removed
                now = {*told(reply)} if ask is sotw else {*endpoints, *told(reply)} - {*gone}
                nonce = replies[ENDPOINT].nonce if ENDPOINT in replies else ""
                if ask is sotw:
                    conversation.receive(ask(ENDPOINT, *sorted(now), nonce=nonce))
                else:
                    conversation.receive(ask(ENDPOINT, *sorted(now - endpoints), gone=gone))
    return replies


def test_routes_stay_on_a_cluster_that_serves_while_its_service_is_not_known(
    opened: Opened,
) -> None:
    resume(opened, OTHERWISE)
    replies = warm(opened, UNSETTLED)
    assert ROUTE not in replies
    assert CLUSTER not in replies or (opened[1] is delta and not replies[CLUSTER].removed)
    assert OTHERWISE in opened[0].subscriptions[ENDPOINT].names
    assert ROUTE in warm(opened, SETTLED)


def test_an_envoy_that_comes_back_keeps_a_cluster_of_another_name_until_routes_have_left_it(
    opened: Opened,
) -> None:
    """Of another policy, or of a control plane that configures clusters otherwise."""
    conversation = opened[0]
    resume(opened, OTHERWISE)
    replies = {reply.type_url: reply for reply in conversation.offers(SETTLED)}
    assert ROUTE not in replies
    assert told(replies[ENDPOINT]) == [OTHERWISE]
    if opened[1] is sotw:
        assert told(replies[CLUSTER]) == ["triton", OTHERWISE]
        plain, likewise = (cluster_pb2.Cluster() for _ in range(2))
        for found, message in zip(replies[CLUSTER].resources, (plain, likewise), strict=True):
            found.body.Unpack(message)
        plain.name, plain.alt_stat_name = OTHERWISE, "triton"
        assert likewise == plain
    else:
        assert (told(replies[CLUSTER]), replies[CLUSTER].removed) == (["triton"], ())
    for reply in replies.values():
        confirm(opened, reply, *(NAMES | {ENDPOINT: (OTHERWISE,)}).get(reply.type_url, ()))
    request_endpoints(opened, OTHERWISE, "triton", nonce=replies[ENDPOINT].nonce)
    if opened[1] is delta:
        conversation.receive(delta(ENDPOINT, "triton"))
    last = warm(opened, SETTLED)
    assert ROUTE in last
    assert conversation.inherited == {OTHERWISE}
    conversation.let_go(OTHERWISE)
    due = offered(opened, SETTLED)
    assert due.keys() == {CLUSTER}
    assert told(due[CLUSTER]) == (["triton"] if opened[1] is sotw else [])


@pytest.mark.parametrize(
    ("clusters", "routes"), [(("triton",), "old"), ((OTHERWISE,), ""), ((), "old")]
)
def test_routes_go_out_where_nothing_would_be_lost_by_them(
    opened: Opened, clusters: tuple[str, ...], routes: str
) -> None:
    """Envoy has that cluster, has no routes at all, or has nothing of the service."""
    resume(opened, *clusters, routes=routes)
    assert ROUTE in warm(opened, UNSETTLED)


def follow_all(conversation: AdsStream, newest: Snapshot) -> dict[str, Reply]:
    """Acknowledge what is offered; gives the replies by type."""
    replies = {reply.type_url: reply for reply in conversation.offers(newest)}
    for reply in replies.values():
        acknowledge((conversation, delta), reply)
    return replies


def test_an_envoy_that_comes_back_with_these_routes_may_lose_an_empty_cluster_at_once() -> None:
    conversation = DeltaStream()
    versions = {name: found.version for name, found in RELEASED.of(CLUSTER).items()}
    conversation.receive(delta(CLUSTER, has=versions))
    current = FIRST.of(ROUTE)["triton"].version
    conversation.receive(delta(ROUTE, "triton", has={"triton": current}))
    conversation.let_go(RELEASE)
    assert only(conversation, FIRST).removed == (RELEASE,)


def test_one_bad_cluster_does_not_keep_a_new_envoy_without_routes(opened: Opened) -> None:
    conversation, ask = opened
    conversation.receive(ask(CLUSTER))
    conversation.receive(ask(ROUTE, "triton"))
    for _ in range(4):
        for reply in conversation.offers(RELEASED):
            bad = reply.type_url == CLUSTER and RELEASE in told(reply)
            acknowledge(opened, reply, error="no" if bad else None)
    assert conversation.subscriptions[ROUTE].known == {"triton"}
    assert conversation.refusing


class Protocol(RuleBasedStateMachine):
    """A client that keeps what it is told, refuses at random and reconnects; one catalog.

    Like Envoy it asks for the endpoints of the clusters that it has. Requests and replies are
    delivered at once or late; whenever both sides are quiet the client has exactly what the newest
    snapshot says, or what it refused instead. Its routes never lead to a cluster that it has not.
    """

    delta = False

    def __init__(self) -> None:
        super().__init__()
        self.has: dict[str, dict[str, str]] = {type_url: {} for type_url in ORDER}
        self.refused: set[tuple[str, str]] = set()
        # By version: where routes lead, and who gets requests by endpoints.
        self.leads: dict[str, frozenset[str]] = {}
        self.gets: dict[str, frozenset[str]] = {}
        # Clusters that were refused, and routes to them taken all the same, having no others.
        self.forgone: set[str] = set()
        self.newest = FIRST
        self.learn(FIRST)
        self.connect()

    def learn(self, newest: Snapshot) -> None:
        self.newest = newest
        self.leads[newest.of(ROUTE)["triton"].version] = frozenset(newest.routed)
        for name, assignment in newest.assignments.items():
            self.gets[newest.of(ENDPOINT)[name].version] = assignment.routable

    def connect(self) -> None:
        self.pending: list[Reply] = []
        self.nonces: dict[str, str] = {}
        self.refused = set()
        self.conversation: AdsStream = DeltaStream() if self.delta else SotwStream()
        for type_url in ORDER:
            has = self.has[type_url]
            if self.delta:
                request = delta(type_url, *self.names(type_url), has=has)
            else:
                version = "something" if has else ""
                request = sotw(type_url, *self.names(type_url), version=version)
            self.conversation.receive(request)

    def names(self, type_url: str) -> tuple[str, ...]:
        """What is asked for by name."""
        if type_url == ENDPOINT:
            return tuple(sorted(self.has[CLUSTER]))
        return NAMES.get(type_url, ())

    @rule(
        instances=st.lists(
            st.sampled_from([A, B, replace(A, draining=True), replace(B, health=Health.CRITICAL)]),
            unique_by=lambda instance: instance.id,
        ),
        leader=st.sampled_from(["a", "b"]),
        timeout=st.sampled_from([0.5, 0.6]),
        percent=st.sampled_from([0, 0, 50, 100]),
    )
    def publish(self, instances: list[Instance], leader: str, timeout: float, percent: int) -> None:
        release = Release(tag="new", percent=percent) if percent else None
        policy = replace(tuning(timeout), release=release)
        self.learn(snapshot(*instances, leader=leader, policy=policy))

    @rule()
    def offer(self) -> None:
        replies = list(self.conversation.offers(self.newest))
        busy = {reply.type_url for reply in self.pending}
        assert busy.isdisjoint(reply.type_url for reply in replies)
        order = [ORDER.index(reply.type_url) for reply in replies]
        assert order == sorted(order)
        self.pending += replies

    @precondition(lambda self: self.pending)
    @rule(good=st.booleans(), which=st.integers(0, 4))
    def answer(self, good: bool, which: int = 0) -> None:
        reply = self.pending.pop(which % len(self.pending))
        self.nonces[reply.type_url] = reply.nonce
        before = set(self.has[CLUSTER])
        if good:
            self.take(reply)
        else:
            self.refused |= {(found.name, found.version) for found in reply.resources}
        outcome = self.send(reply.type_url, reply.nonce, None if good else "no")
        assert isinstance(outcome, Acked if good else Nacked)
        assert outcome.reply is reply
        if before != set(self.has[CLUSTER]):
            self.follow_clusters(before)

    def take(self, reply: Reply) -> None:
        has = self.has[reply.type_url]
        if not self.delta and reply.type_url in (CLUSTER, LISTENER):
            has.clear()
        has |= {resource.name: resource.version for resource in reply.resources}
        for name in reply.removed:
            has.pop(name, None)
        if reply.type_url == ENDPOINT:  # also of clusters that it came with
            for resource in reply.resources:
                routable = reply.snapshot.assignments[resource.name].routable
                self.gets.setdefault(resource.version, routable)
        if reply.type_url == ROUTE:
            missing = self.leads[has["triton"]] - self.has[CLUSTER].keys()
            assert missing <= {name for name, _ in self.refused}
            self.forgone = set(missing)

    def send(self, type_url: str, nonce: str, error: str | None = None) -> Any:
        if self.delta:
            return self.conversation.receive(delta(type_url, nonce=nonce, error=error))
        request = sotw(type_url, *self.names(type_url), nonce=nonce, error=error)
        return self.conversation.receive(request)

    def follow_clusters(self, before: set[str]) -> None:
        """Ask for the endpoints of clusters that are new, and no more for those that are gone."""
        now = set(self.has[CLUSTER])
        for name in before - now:
            self.has[ENDPOINT].pop(name, None)
        if self.delta:
            gone = tuple(before - now)
            self.conversation.receive(delta(ENDPOINT, *sorted(now - before), gone=gone))
        else:
            self.send(ENDPOINT, self.nonces.get(ENDPOINT, ""))

    @rule(type_url=st.sampled_from(ORDER))
    def answer_what_was_never_said(self, type_url: str) -> None:
        outcome = self.conversation.receive(
            delta(type_url, nonce="stale")
            if self.delta
            else sotw(type_url, *self.names(type_url), nonce="stale")
        )
        assert outcome is None

    @rule(type_url=st.sampled_from((ENDPOINT, ROUTE)))
    def ask_again(self, type_url: str) -> None:
        if self.delta:
            self.conversation.receive(delta(type_url, *self.names(type_url)))
        else:
            self.send(type_url, self.nonces.get(type_url, ""))

    @precondition(lambda self: self.delta and self.has[ENDPOINT])
    @rule()
    def change_its_mind(self) -> None:
        names = self.names(ENDPOINT)
        self.conversation.receive(delta(ENDPOINT, gone=names))
        self.has[ENDPOINT].clear()
        self.pending = [reply for reply in self.pending if reply.type_url != ENDPOINT] + [
            reply for reply in self.pending if reply.type_url == ENDPOINT
        ]
        self.conversation.receive(delta(ENDPOINT, *names))

    @rule()
    def reconnect(self) -> None:
        self.connect()

    @rule()
    def become_quiet(self) -> None:
        """Deliver everything: it has to come to an end, with the client up to date.

        Nothing is in flight on what it came with.
        """
        for name in self.conversation.inherited:
            self.conversation.let_go(name)
        for _ in range(20):
            self.offer()
            while self.pending:
                self.answer(good=True)
        assert list(self.conversation.offers(self.newest)) == []
        for type_url in ORDER:
            for name, resource in self.newest.of(type_url).items():
                asked = type_url != ENDPOINT or name in self.has[CLUSTER]
                current = self.has[type_url].get(name) == resource.version
                assert current or not asked or self.is_refused(type_url, resource.name)
        extra = self.has[CLUSTER].keys() - self.newest.of(CLUSTER).keys()
        assert not extra or self.has[ROUTE]["triton"] != self.newest.of(ROUTE)["triton"].version

    def is_refused(self, type_url: str, name: str) -> bool:
        """Whether the newest version was, or that of something that routes need."""
        resources: Mapping[str, Any] = self.newest.of(type_url)
        if (name, resources[name].version) in self.refused:
            return True
        return type_url == ROUTE and any(
            self.is_refused(other, cluster)
            for other in (CLUSTER, ENDPOINT)
            for cluster in self.newest.routed
        )

    @invariant()
    def confirmed_is_what_the_client_has(self) -> None:
        for type_url, subscription in self.conversation.subscriptions.items():
            for name, found in subscription.acknowledged.items():
                version = found.of(type_url)[name].version
                # A request that names fewer endpoints may be on its way.
                if type_url != ENDPOINT or name in self.has[CLUSTER]:
                    assert self.has[type_url][name] == version

    @invariant()
    def routes_lead_to_clusters_that_are_there(self) -> None:
        for version in self.has[ROUTE].values():
            assert self.leads[version] <= self.has[CLUSTER].keys() | self.forgone

    @invariant()
    def who_is_said_to_get_nothing_gets_nothing(self) -> None:
        for instance in "ab":
            if self.conversation.acknowledges_without("triton", instance):
                for name in self.has[CLUSTER]:
                    told = self.has[ENDPOINT].get(name)
                    assert told is None or instance not in self.gets[told]


class DeltaProtocol(Protocol):
    delta = True


TestStateOfTheWorld = Protocol.TestCase
TestDelta = DeltaProtocol.TestCase


@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_equal_catalogs_cause_no_push(shuffles: list[bool]) -> None:
    opened = DeltaStream(), delta
    follow(opened, FIRST)
    for backwards in shuffles:
        equal = snapshot(*((B, A) if backwards else (A, B)))
        assert list(opened[0].offers(equal)) == []
