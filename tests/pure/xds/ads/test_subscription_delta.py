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
    ads = DeltaStream()
    ads.receive(delta(CLUSTER, "*"))
    reply = only(ads, FIRST)
    assert told(reply) == ["triton"]
    ads.receive(delta(CLUSTER, gone=("*",), nonce=reply.nonce))
    assert list(ads.offers(TUNED)) == []


def test_delta_tells_what_is_gone() -> None:
    ads = DeltaStream()
    ads.receive(delta(CLUSTER))
    both = snapshot(A, extra="other")
    acknowledge((ads, delta), only(ads, both))
    reply = only(ads, snapshot(A))
    assert (told(reply), reply.removed) == ([], ("other",))
    acknowledge((ads, delta), reply)
    assert list(ads.offers(snapshot(A))) == []
    assert told(only(ads, both)) == ["other"]


def test_delta_removes_what_an_envoy_has_from_before() -> None:
    ads = DeltaStream()
    version = FIRST.of(CLUSTER)["triton"].version
    ads.receive(delta(CLUSTER, has={"triton": version, "ancient": "1"}))
    current = FIRST.of(ROUTE)["triton"].version
    ads.receive(delta(ROUTE, "triton", has={"triton": current}))
    reply = only(ads, FIRST)
    assert (told(reply), reply.removed) == ([], ("ancient",))


def test_delta_finds_out_which_resource_of_a_refused_reply_is_bad() -> None:
    ads = DeltaStream()
    ads.receive(delta(CLUSTER))
    opened, newest = (ads, delta), snapshot(A, extra="other")
    acknowledge(opened, only(ads, newest), error="triton is bad")
    reply = only(ads, newest)
    assert told(reply) == ["other"]
    acknowledge(opened, reply)
    reply = only(ads, newest)
    assert told(reply) == ["triton"]
    acknowledge(opened, reply, error="triton is bad")
    assert list(ads.offers(newest)) == []
    # It is mended.
    tuned = snapshot(A, policy=tuning(9.0), extra="other")
    assert told(only(ads, tuned)) == ["other", "triton"]


def test_delta_greets_an_envoy_that_has_everything() -> None:
    ads = DeltaStream()
    version = FIRST.of(CLUSTER)["triton"].version
    ads.receive(delta(CLUSTER, has={"triton": version}))
    reply = only(ads, FIRST)
    assert (told(reply), reply.removed) == ([], ())


def test_delta_resends_what_is_asked_for_again_and_forgets_what_is_not_wanted() -> None:
    opened = DeltaStream(), delta
    follow(opened, FIRST)
    ads = opened[0]
    ads.receive(delta(ENDPOINT, "triton"))
    reply = only(ads, FIRST)
    assert told(reply) == ["triton"]
    ads.receive(delta(ENDPOINT, gone=("triton",), nonce=reply.nonce))
    assert list(ads.offers(SWAPPED)) == []
