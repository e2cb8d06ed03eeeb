"""The subscriptions against a small reference client, which knows only the protocol's rules."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from envoy.service.discovery.v3 import discovery_pb2
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar.traffic.policy import DEFAULTS, Connection, TrafficPolicy
from sidecar.xds.catalog import Catalog, Health, Instance, Leader, ServiceCatalog
from sidecar.xds.conversation import (
    Conversation,
    DeltaConversation,
    StateOfTheWorldConversation,
)
from sidecar.xds.edge import Edge
from sidecar.xds.snapshot import (
    CLUSTER,
    ENDPOINT,
    LISTENER,
    ORDER,
    ROUTE,
    RUNTIME,
    Snapshot,
    build,
)
from sidecar.xds.subscription import Acknowledged, Refused, Reply

EDGE = Edge()


def tuning(timeout: float) -> TrafficPolicy:
    """A policy by which the clusters change."""
    return replace(DEFAULTS, connection=Connection(connect_timeout=timeout))


# What Envoy subscribes to by name.
NAMES = dict.fromkeys((RUNTIME, ENDPOINT, ROUTE), ("triton",))
A = Instance("a", "10.0.0.1", 8001, 9001)
B = Instance("b", "10.0.0.2", 8001, 9001)


def snapshot(
    *instances: Instance, leader: str = "a", policy: TrafficPolicy = DEFAULTS, extra: str = ""
) -> Snapshot:
    services = [ServiceCatalog("triton", instances, Leader(leader, 1), policy=policy)]
    if extra:
        services.append(ServiceCatalog(extra, instances, policy=policy))
    return build(Catalog(tuple(services)), EDGE)


FIRST = snapshot(A, B)
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


def only(conversation: Conversation, newest: Snapshot) -> Reply:
    [reply] = conversation.offers(newest)
    return reply


Opened = tuple[Conversation, Callable[..., Any]]


@pytest.fixture(params=["sotw", "delta"])
def opened(request: pytest.FixtureRequest) -> Opened:
    if request.param == "sotw":
        return StateOfTheWorldConversation(), sotw
    return DeltaConversation(), delta


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
    assert isinstance(acknowledge(opened, reply), Acknowledged)
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
    assert isinstance(outcome, Refused)
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
    reply = only(conversation, withdrawn)
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
    opened = StateOfTheWorldConversation(), sotw
    follow(opened, FIRST)
    reply = only(opened[0], SWAPPED)
    assert opened[0].receive(sotw(ENDPOINT, "triton", nonce="1")) is None
    assert list(opened[0].offers(snapshot(B))) == []  # still waiting for the real one
    assert isinstance(acknowledge(opened, reply), Acknowledged)


def test_a_star_means_all_and_naming_none_after_a_name_means_none() -> None:
    conversation = StateOfTheWorldConversation()
    conversation.receive(sotw(CLUSTER, "*"))
    reply = only(conversation, FIRST)
    assert told(reply) == ["triton"]
    conversation.receive(sotw(CLUSTER, nonce=reply.nonce))
    assert list(conversation.offers(TUNED)) == []


def test_delta_star_and_back() -> None:
    conversation = DeltaConversation()
    conversation.receive(delta(CLUSTER, "*"))
    reply = only(conversation, FIRST)
    assert told(reply) == ["triton"]
    conversation.receive(delta(CLUSTER, gone=("*",), nonce=reply.nonce))
    assert list(conversation.offers(TUNED)) == []


def test_delta_tells_what_is_gone() -> None:
    conversation = DeltaConversation()
    conversation.receive(delta(CLUSTER))
    both = snapshot(A, extra="other")
    acknowledge((conversation, delta), only(conversation, both))
    reply = only(conversation, snapshot(A))
    assert (told(reply), reply.removed) == ([], ("other",))
    acknowledge((conversation, delta), reply)
    assert list(conversation.offers(snapshot(A))) == []
    assert told(only(conversation, both)) == ["other"]


def test_delta_removes_what_an_envoy_has_from_before() -> None:
    conversation = DeltaConversation()
    version = FIRST.of(CLUSTER)["triton"].version
    conversation.receive(delta(CLUSTER, has={"triton": version, "ancient": "1"}))
    reply = only(conversation, FIRST)
    assert (told(reply), reply.removed) == ([], ("ancient",))


def test_delta_finds_out_which_resource_of_a_refused_reply_is_bad() -> None:
    conversation = DeltaConversation()
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
    conversation = DeltaConversation()
    version = FIRST.of(CLUSTER)["triton"].version
    conversation.receive(delta(CLUSTER, has={"triton": version}))
    reply = only(conversation, FIRST)
    assert (told(reply), reply.removed) == ([], ())


def test_delta_resends_what_is_asked_for_again_and_forgets_what_is_not_wanted() -> None:
    opened = DeltaConversation(), delta
    follow(opened, FIRST)
    conversation = opened[0]
    conversation.receive(delta(ENDPOINT, "triton"))
    reply = only(conversation, FIRST)
    assert told(reply) == ["triton"]
    conversation.receive(delta(ENDPOINT, gone=("triton",), nonce=reply.nonce))
    assert list(conversation.offers(SWAPPED)) == []


def test_messages_carry_what_the_reply_says() -> None:
    for opened in ((StateOfTheWorldConversation(), sotw), (DeltaConversation(), delta)):
        conversation, ask = opened
        conversation.receive(ask(ENDPOINT, "triton"))
        reply = only(conversation, FIRST)
        message = conversation.message(reply)
        assert (message.type_url, message.nonce) == (ENDPOINT, reply.nonce)
        assert len(message.resources) == 1


class Protocol(RuleBasedStateMachine):
    """A client that keeps what it is told, refuses at random and reconnects; one catalog.

    Requests and replies are delivered at once or late; whenever both sides are quiet the client
    has exactly what the newest snapshot says, or what it refused instead.
    """

    delta = False

    def __init__(self) -> None:
        super().__init__()
        self.newest = FIRST
        self.has: dict[str, dict[str, str]] = {}
        self.pending: list[Reply] = []
        self.refused: set[tuple[str, str]] = set()
        self.connect()

    def connect(self) -> None:
        self.pending = []
        self.refused = set()
        self.conversation: Conversation = (
            DeltaConversation() if self.delta else StateOfTheWorldConversation()
        )
        for type_url in ORDER:
            names = NAMES.get(type_url, ())
            if self.delta:
                request = delta(type_url, *names, has=self.has.get(type_url, {}))
            else:
                request = sotw(type_url, *names)
            self.conversation.receive(request)

    @rule(
        instances=st.lists(
            st.sampled_from([A, B, replace(A, draining=True), replace(B, health=Health.CRITICAL)]),
            unique_by=lambda instance: instance.id,
        ),
        leader=st.sampled_from(["a", "b"]),
        timeout=st.sampled_from([0.5, 0.6]),
    )
    def publish(self, instances: list[Instance], leader: str, timeout: float) -> None:
        policy = tuning(timeout)
        self.newest = snapshot(*instances, leader=leader, policy=policy)

    @rule()
    def offer(self) -> None:
        replies = list(self.conversation.offers(self.newest))
        busy = {reply.type_url for reply in self.pending}
        assert busy.isdisjoint(reply.type_url for reply in replies)
        order = [ORDER.index(reply.type_url) for reply in replies]
        assert order == sorted(order)
        self.pending += replies

    @precondition(lambda self: self.pending)
    @rule(good=st.booleans())
    def answer(self, good: bool) -> None:
        reply = self.pending.pop(0)
        has = self.has.setdefault(reply.type_url, {})
        if good:
            if not self.delta and reply.type_url in (CLUSTER, LISTENER):
                has.clear()
            has |= {resource.name: resource.version for resource in reply.resources}
            for name in reply.removed:
                has.pop(name, None)
        else:
            self.refused |= {(found.name, found.version) for found in reply.resources}
        names = NAMES.get(reply.type_url, ())
        error = None if good else "no"
        if self.delta:
            request = delta(reply.type_url, nonce=reply.nonce, error=error)
        else:
            request = sotw(reply.type_url, *names, nonce=reply.nonce, error=error)
        outcome = self.conversation.receive(request)
        assert isinstance(outcome, Acknowledged if good else Refused)
        assert outcome.reply is reply

    @rule()
    def reconnect(self) -> None:
        self.connect()

    @rule()
    def become_quiet(self) -> None:
        """Deliver everything: it has to come to an end, with the client up to date."""
        for _ in range(8):
            self.offer()
            while self.pending:
                self.answer(good=True)
        assert list(self.conversation.offers(self.newest)) == []
        for type_url in ORDER:
            for name, resource in self.newest.of(type_url).items():
                current = self.has[type_url].get(name) == resource.version
                assert current or (name, resource.version) in self.refused

    @invariant()
    def confirmed_is_what_the_client_has(self) -> None:
        for type_url, subscription in self.conversation.subscriptions.items():
            for name, found in subscription.acknowledged.items():
                version = found.of(type_url)[name].version
                assert self.has[type_url][name] == version


class DeltaProtocol(Protocol):
    delta = True


TestStateOfTheWorld = Protocol.TestCase
TestDelta = DeltaProtocol.TestCase


@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_equal_catalogs_cause_no_push(shuffles: list[bool]) -> None:
    opened = DeltaConversation(), delta
    follow(opened, FIRST)
    for backwards in shuffles:
        equal = snapshot(*((B, A) if backwards else (A, B)))
        assert list(opened[0].offers(equal)) == []
