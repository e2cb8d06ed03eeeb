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
    names_of,
    only,
    snapshot,
    tuning,
)
from tests.support.xds.ads_client import opened as opened


def test_delta_wildcard_and_unsubscribe() -> None:
    stream = DeltaStream()
    stream.receive(delta(CLUSTER, "*"))
    reply = only(stream, FIRST)
    assert names_of(reply) == ["triton"]
    stream.receive(delta(CLUSTER, gone=("*",), nonce=reply.nonce))
    assert list(stream.offers(TUNED)) == []


def test_delta_sends_removals() -> None:
    stream = DeltaStream()
    stream.receive(delta(CLUSTER))
    both = snapshot(A, extra="other")
    acknowledge((stream, delta), only(stream, both))
    reply = only(stream, snapshot(A))
    assert (names_of(reply), reply.removed) == ([], ("other",))
    acknowledge((stream, delta), reply)
    assert list(stream.offers(snapshot(A))) == []
    assert names_of(only(stream, both)) == ["other"]


def test_delta_removes_resources_of_an_earlier_stream() -> None:
    stream = DeltaStream()
    version = FIRST.of(CLUSTER)["triton"].version
    stream.receive(delta(CLUSTER, has={"triton": version, "ancient": "1"}))
    current = FIRST.of(ROUTE)["triton"].version
    stream.receive(delta(ROUTE, "triton", has={"triton": current}))
    reply = only(stream, FIRST)
    assert (names_of(reply), reply.removed) == ([], ("ancient",))


def test_delta_finds_the_bad_resource_of_a_rejected_reply() -> None:
    stream = DeltaStream()
    stream.receive(delta(CLUSTER))
    opened, newest = (stream, delta), snapshot(A, extra="other")
    acknowledge(opened, only(stream, newest), error="triton is bad")
    reply = only(stream, newest)
    assert names_of(reply) == ["other"]
    acknowledge(opened, reply)
    reply = only(stream, newest)
    assert names_of(reply) == ["triton"]
    acknowledge(opened, reply, error="triton is bad")
    assert list(stream.offers(newest)) == []
    # The bad resource is fixed.
    tuned = snapshot(A, policy=tuning(9.0), extra="other")
    assert names_of(only(stream, tuned)) == ["other", "triton"]


def test_delta_answers_an_envoy_that_is_up_to_date() -> None:
    stream = DeltaStream()
    version = FIRST.of(CLUSTER)["triton"].version
    stream.receive(delta(CLUSTER, has={"triton": version}))
    reply = only(stream, FIRST)
    assert (names_of(reply), reply.removed) == ([], ())


def test_delta_resends_on_request_and_stops_after_an_unsubscribe() -> None:
    opened = DeltaStream(), delta
    follow(opened, FIRST)
    stream = opened[0]
    stream.receive(delta(ENDPOINT, "triton"))
    reply = only(stream, FIRST)
    assert names_of(reply) == ["triton"]
    stream.receive(delta(ENDPOINT, gone=("triton",), nonce=reply.nonce))
    assert list(stream.offers(SWAPPED)) == []
