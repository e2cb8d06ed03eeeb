"""Delta subscriptions: wildcard, removals, resends, and which resource of a NACK is bad."""

from sidecar.xds.ads.ads_stream import DeltaStream
from sidecar.xds.config.snapshot import (
    CLUSTER,
    ENDPOINT,
    ROUTE,
)
from tests.support.xds.ads_client import (
    FIRST,
    SWAPPED,
    TUNED,
    A,
    acknowledge,
    delta,
    follow,
    only,
    snapshot,
    told,
    tuning,
)
from tests.support.xds.ads_client import opened as opened


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
