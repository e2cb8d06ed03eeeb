"""The status of Envoys against what is published."""

from dataclasses import replace

import pytest

from sidecar.xds.ads.ads_stream import DeltaStream
from sidecar.xds.ads.delta import DeltaResponder
from sidecar.xds.catalog.catalog import Catalog
from sidecar.xds.config.edge import Edge
from sidecar.xds.config.snapshot import CLUSTER, ENDPOINT, LISTENER, ROUTE, RUNTIME, Snapshot, build
from sidecar.xds.envoys.client_status import ResourceStatus, client
from sidecar.xds.envoys.envoy_streams import EnvoyStream
from tests.support.xds.ads_client import (
    FIRST,
    SWAPPED,
    TUNED,
    A,
    B,
    Opened,
    acknowledge,
    delta,
    follow,
    opened,
    snapshot,
)

__all__ = ["opened"]


def standings(stream: EnvoyStream, newest: Snapshot | None) -> dict[str, ResourceStatus]:
    found = client(stream, newest, 10.0)
    return {state.type_url: each.status for state in found.types for each in state.resources}


def rejecting(opened: Opened) -> bool:
    return opened[0].rejecting


@pytest.fixture
def stream(opened: Opened) -> EnvoyStream:
    return EnvoyStream(opened[0], node="envoy-1", since=4.0)


def test_an_envoy_with_everything_is_synced(opened: Opened, stream: EnvoyStream) -> None:
    replies = follow(opened, FIRST)
    stream.update_lag(FIRST, 9.0)
    found = client(stream, FIRST, 10.0)
    assert (found.node, found.connected, found.lag) == ("envoy-1", 6.0, 0.0)
    assert [state.type_url for state in found.types] == [
        RUNTIME,
        CLUSTER,
        ENDPOINT,
        LISTENER,
        ROUTE,
    ]
    assert set(standings(stream, FIRST).values()) == {ResourceStatus.SYNCED}
    assert not any(state.behind or state.pending for state in found.types)
    accepted = {state.type_url: state.accepted for state in found.types}
    assert accepted == {reply.type_url: reply.version for reply in replies.values()}


def test_resources_that_were_not_requested_are_not_listed(
    opened: Opened, stream: EnvoyStream
) -> None:
    ads, ask = opened
    ads.receive(ask(ENDPOINT, "other"))
    assert standings(stream, FIRST) == {}
    assert standings(stream, None) == {}


def test_a_resource_in_flight_is_stale_and_one_never_sent_is_not_sent(
    opened: Opened, stream: EnvoyStream
) -> None:
    ads, ask = opened
    for type_url in (CLUSTER, ROUTE):
        ads.receive(ask(type_url, *([] if type_url == CLUSTER else ["triton"])))
    assert standings(stream, FIRST) == {
        CLUSTER: ResourceStatus.NOT_SENT,
        ROUTE: ResourceStatus.NOT_SENT,
    }
    [_] = ads.offers(FIRST)  # the routes wait for it
    assert standings(stream, FIRST) == {
        CLUSTER: ResourceStatus.STALE,
        ROUTE: ResourceStatus.NOT_SENT,
    }


def test_an_older_version_is_stale_and_lags(opened: Opened, stream: EnvoyStream) -> None:
    follow(opened, FIRST)
    for newest, at in ((SWAPPED, 7.0), (snapshot(B), 9.0)):
        list(opened[0].offers(newest))
        stream.update_lag(newest, at)
    found = client(stream, snapshot(B), 10.0)
    assert found.lag == 3.0  # since the first one that it has not acknowledged
    [behind] = [each for state in found.types for each in state.behind]
    assert behind.status is ResourceStatus.STALE
    assert behind.held == FIRST.of(ENDPOINT)["triton"].version
    assert behind.resource == snapshot(B).of(ENDPOINT)["triton"]


def test_a_nack_is_kept_until_something_is_accepted(opened: Opened, stream: EnvoyStream) -> None:
    follow(opened, FIRST)

    def answer(newest: Snapshot, error: str | None) -> None:
        for reply in opened[0].offers(newest):
            stream.outstanding.append(reply)
            stream.record(acknowledge(opened, reply, error), 8.0, 1_700_000_000.0)

    answer(SWAPPED, "no such thing")
    assert standings(stream, SWAPPED)[ENDPOINT] is ResourceStatus.ERROR
    [state] = [each for each in client(stream, SWAPPED, 10.0).types if each.nack]
    assert state.nack is not None
    assert (state.type_url, state.nack.reason) == (ENDPOINT, "no such thing")
    assert rejecting(opened)
    answer(snapshot(replace(A, weight=2), B), None)
    assert not rejecting(opened)
    assert not any(each.nack for each in client(stream, TUNED, 10.0).types)


def test_an_envoy_that_connects_later_lags_only_since_then(
    opened: Opened, stream: EnvoyStream
) -> None:
    ads, ask = opened
    ads.receive(ask(CLUSTER))
    stream.update_lag(FIRST, 1.0)
    assert client(stream, FIRST, 10.0).lag == 6.0


@pytest.mark.parametrize("end", ["gone", "unsubscribed", "reverted"])
def test_a_nack_of_a_resource_that_is_no_longer_published_is_forgotten(end: str) -> None:
    ads = DeltaStream()
    stream, ask, opened = EnvoyStream(ads), delta, (ads, delta)
    names = ("triton", "other")
    ads.receive(ask(ENDPOINT, *names))
    first = snapshot(A, B, extra="other")
    for reply in ads.offers(first):
        acknowledge(opened, reply)
    # Two at once, so that either may be the bad one.
    bad = snapshot(B, extra="other")
    for reply in ads.offers(bad):
        stream.outstanding.append(reply)
        stream.record(acknowledge(opened, reply, "no"), 8.0, 1_700_000_000.0)
    assert rejecting(opened)
    assert stream.nacks
    newest = {"gone": build(Catalog(()), Edge()), "unsubscribed": bad, "reverted": first}[end]
    if end == "unsubscribed":
        ads.receive(ask(ENDPOINT, gone=names))
    for _ in range(3):
        for reply in ads.offers(newest):
            stream.outstanding.append(reply)
            stream.record(acknowledge(opened, reply), 9.0, 1_700_000_000.0)
    stream.update_lag(newest, 9.0)
    assert not rejecting(opened)
    assert not stream.nacks


def test_a_nack_of_a_reverted_change_is_forgotten(opened: Opened, stream: EnvoyStream) -> None:
    follow(opened, FIRST)
    [reply] = opened[0].offers(SWAPPED)
    stream.outstanding.append(reply)
    stream.record(acknowledge(opened, reply, "no"), 8.0, 1_700_000_000.0)
    assert list(opened[0].offers(SWAPPED)) == []
    assert rejecting(opened)
    assert list(opened[0].offers(FIRST)) == []  # it has that
    stream.update_lag(FIRST, 9.0)
    assert not rejecting(opened)
    assert not stream.nacks


def test_a_rejecting_envoy_is_counted_while_it_subscribes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The metrics are read in another thread.
    ads = DeltaStream()
    more = iter((CLUSTER, ENDPOINT, ROUTE))

    def subscribing(_: DeltaResponder) -> bool:
        ads.receive(delta(next(more)))
        return False

    monkeypatch.setattr(DeltaResponder, "rejecting", property(subscribing))
    for type_url in (RUNTIME, LISTENER):
        ads.receive(delta(type_url))
    assert not ads.rejecting
