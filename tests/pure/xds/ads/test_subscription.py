"""Subscriptions of both variants: what is sent, in which order, what ACKs and NACKs change."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sidecar.xds.ads.ads_stream import DeltaStream, SotwStream
from sidecar.xds.ads.subscription import Acked, Nacked
from sidecar.xds.catalog.catalog import Catalog, ServiceCatalog
from sidecar.xds.config.snapshot import (
    CLUSTER,
    ENDPOINT,
    LISTENER,
    ORDER,
    ROUTE,
    RUNTIME,
    build,
)
from tests.support.xds.ads_client import (
    EDGE,
    FIRST,
    NAMES,
    RELEASE,
    RELEASED,
    SWAPPED,
    TUNED,
    A,
    B,
    Opened,
    acknowledge,
    delta,
    follow,
    names_of,
    only,
    snapshot,
    sotw,
    tuning,
)
from tests.support.xds.ads_client import opened as opened


def test_everything_is_sent_in_order_and_once(opened: Opened) -> None:
    replies = follow(opened, FIRST)
    assert tuple(replies) == ORDER
    assert list(opened[0].offers(FIRST)) == []
    assert not any(reply.news for reply in replies.values())


def test_a_change_is_sent_to_its_subscribers(opened: Opened) -> None:
    follow(opened, FIRST)
    reply = only(opened[0], SWAPPED)
    assert (reply.type_url, names_of(reply), reply.news) == (ENDPOINT, ["triton"], True)
    assert isinstance(acknowledge(opened, reply), Acked)
    assert list(opened[0].offers(SWAPPED)) == []


def test_a_slow_envoy_skips_to_the_newest_version(opened: Opened) -> None:
    follow(opened, FIRST)
    first = only(opened[0], SWAPPED)
    newest = snapshot(B)
    assert list(opened[0].offers(newest)) == []  # one at a time
    acknowledge(opened, first)
    assert only(opened[0], newest).resources[0] == newest.of(ENDPOINT)["triton"]


def test_a_rejected_configuration_is_resent_only_when_it_changes(opened: Opened) -> None:
    follow(opened, FIRST)
    outcome = acknowledge(opened, only(opened[0], SWAPPED), error="no")
    assert isinstance(outcome, Nacked)
    assert outcome.reason == "no"
    assert list(opened[0].offers(SWAPPED)) == []
    assert list(opened[0].offers(FIRST)) == []  # Envoy still has it
    assert names_of(only(opened[0], snapshot(B))) == ["triton"]


def test_a_changed_cluster_is_followed_by_its_unchanged_endpoints(opened: Opened) -> None:
    follow(opened, FIRST)
    clusters, endpoints = opened[0].offers(TUNED)
    assert (clusters.type_url, endpoints.type_url) == (CLUSTER, ENDPOINT)
    assert endpoints.resources[0] == FIRST.of(ENDPOINT)["triton"]
    assert not endpoints.news
    for reply in (clusters, endpoints):
        acknowledge(opened, reply)
    assert list(opened[0].offers(TUNED)) == []


def test_only_a_confirmed_withdrawal_counts(opened: Opened) -> None:
    follow(opened, FIRST)
    stream = opened[0]
    assert not stream.acknowledges_without("triton", "a")
    withdrawn = snapshot(replace(A, draining=True), B)
    limits, reply = stream.offers(withdrawn)
    assert limits.type_url == RUNTIME  # otherwise the last good one could be ejected in between
    acknowledge(opened, limits)
    assert not stream.acknowledges_without("triton", "a")
    acknowledge(opened, reply)
    assert stream.acknowledges_without("triton", "a")
    assert not stream.acknowledges_without("triton", "b")
    assert not stream.acknowledges_without("other", "a")


def test_a_rejected_withdrawal_does_not_count(opened: Opened) -> None:
    follow(opened, FIRST)
    acknowledge(opened, only(opened[0], snapshot(B)), error="no")
    assert not opened[0].acknowledges_without("triton", "a")


def test_nothing_is_sent_for_an_unsettled_service(opened: Opened) -> None:
    stream, ask = opened
    unknown = build(Catalog((ServiceCatalog("triton", settled=False),)), EDGE)
    stream.receive(ask(ENDPOINT, "triton"))
    assert list(stream.offers(unknown)) == []
    assert names_of(only(stream, FIRST)) == ["triton"]


def test_an_unsupported_type_is_not_answered(opened: Opened) -> None:
    stream, ask = opened
    stream.receive(ask("type.googleapis.com/envoy.Secret", "x"))
    assert list(stream.offers(FIRST)) == []


def test_a_name_subscribed_to_later_is_answered(opened: Opened) -> None:
    follow(opened, snapshot(A, extra="other"))
    stream, ask = opened
    if ask is sotw:
        stream.receive(ask(ENDPOINT, "triton", "other", nonce="1"))
        expected = ["other", "triton"]
    else:
        stream.receive(ask(ENDPOINT, "other"))
        expected = ["other"]
    assert names_of(only(stream, snapshot(A, extra="other"))) == expected


def test_an_ack_of_an_older_reply_is_ignored() -> None:
    opened = SotwStream(), sotw
    follow(opened, FIRST)
    reply = only(opened[0], SWAPPED)
    assert opened[0].receive(sotw(ENDPOINT, "triton", nonce="1")) is None
    assert list(opened[0].offers(snapshot(B))) == []  # still waiting for the real one
    assert isinstance(acknowledge(opened, reply), Acked)


def test_a_star_means_all_and_an_empty_list_after_a_name_means_none() -> None:
    stream = SotwStream()
    stream.receive(sotw(CLUSTER, "*"))
    reply = only(stream, FIRST)
    assert names_of(reply) == ["triton"]
    stream.receive(sotw(CLUSTER, nonce=reply.nonce))
    assert list(stream.offers(TUNED)) == []


def test_a_stream_that_never_answers_gets_one_reply_per_type(opened: Opened) -> None:
    stream, ask = opened
    for type_url in ORDER:
        stream.receive(ask(type_url, *NAMES.get(type_url, ())))
    sent = []
    various = [snapshot(A, B, policy=tuning(1.0 + turn)) for turn in range(10)]
    for turn in range(1000):
        sent += list(stream.offers(various[turn % 10]))
    # Routes are held: their cluster was not acknowledged.
    assert [reply.type_url for reply in sent] == [RUNTIME, CLUSTER, ENDPOINT, LISTENER]


def test_only_acknowledged_resources_are_kept(opened: Opened) -> None:
    follow(opened, RELEASED)
    for type_url, subscription in opened[0].subscriptions.items():
        for name, kept in subscription.acknowledged.items():
            assert kept.of(type_url)[name] is RELEASED.of(type_url)[name]
            assert kept.resources.keys() == {type_url}
            assert bool(kept.assignments) is (type_url == ENDPOINT)
            assert kept.routed == (RELEASED.routed if type_url == ROUTE else ())


def test_a_new_envoy_gets_routes_despite_one_bad_cluster(opened: Opened) -> None:
    stream, ask = opened
    stream.receive(ask(CLUSTER))
    stream.receive(ask(ROUTE, "triton"))
    for _ in range(4):
        for reply in stream.offers(RELEASED):
            bad = reply.type_url == CLUSTER and RELEASE in names_of(reply)
            acknowledge(opened, reply, error="no" if bad else None)
    assert stream.subscriptions[ROUTE].known == {"triton"}
    assert stream.rejecting


@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_equal_catalogs_cause_no_push(shuffles: list[bool]) -> None:
    opened = DeltaStream(), delta
    follow(opened, FIRST)
    for backwards in shuffles:
        equal = snapshot(*((B, A) if backwards else (A, B)))
        assert list(opened[0].offers(equal)) == []
