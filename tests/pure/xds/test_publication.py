"""How long Envoys take to follow, and since when instances have their places."""

import asyncio
from contextlib import suppress
from dataclasses import replace

from sidecar.runtime.latest import Latest
from sidecar.xds.ads.subscription import Reply
from sidecar.xds.catalog.catalog import Catalog, Instance, Leader, ServiceCatalog
from sidecar.xds.config.edge import Edge
from sidecar.xds.config.snapshot import ENDPOINT
from sidecar.xds.publication import Convergence, Publication
from tests.pure.xds.ads.test_subscription import FIRST, SWAPPED
from tests.pure.xds.catalog.test_catalog_watch import HandClock

A = Instance("a", "10.0.0.1", 8001, 9001)
B = Instance("b", "10.0.0.2", 8001, 9001)


def reply(*, news: bool = True) -> Reply:
    return Reply(ENDPOINT, "1", "v", (), (), SWAPPED, news)


def test_the_last_confirmation_counts() -> None:
    seen: list[float] = []
    convergence = Convergence(seen.append)
    one, two, three = reply(), reply(), reply()
    for each in (one, two, three):
        convergence.sent(each, 10.0)
    convergence.answered(one, 10.5)
    convergence.answered(two, 11.0)
    assert seen == []
    convergence.answered(three, None)  # it hung up, and no longer counts
    assert seen == [1.0]


def test_what_follows_from_an_answer_is_part_of_the_same_change() -> None:
    seen: list[float] = []
    convergence = Convergence(seen.append)
    clusters, routes = reply(), reply()
    convergence.sent(clusters, 10.0)
    convergence.sent(routes, 10.0)  # before the answer counts
    convergence.answered(clusters, 10.5)
    convergence.answered(routes, 10.6)
    assert [round(each, 3) for each in seen] == [0.6]


def test_replies_without_news_and_changes_that_nobody_confirmed_do_not_count() -> None:
    seen: list[float] = []
    convergence = Convergence(seen.append)
    greeting, refused = reply(news=False), reply()
    convergence.sent(greeting, 10.0)
    convergence.answered(greeting, 10.5)
    convergence.sent(refused, 10.0)
    convergence.answered(refused, None)
    convergence.answered(Reply(ENDPOINT, "9", "v", (), (), FIRST, True), 12.0)
    assert seen == []


async def test_a_place_is_known_since_the_news_came() -> None:
    clock = HandClock()
    catalog: Latest[Catalog | None] = Latest(None)
    heard = 0.0
    publication = Publication(catalog, Edge(), clock, lambda: heard)
    task = asyncio.create_task(publication.run())
    service = ServiceCatalog("triton", (A, B), Leader("a", 1))
    for heard, leader in ((1.0, "a"), (2.0, "b")):  # read by the lambda
        catalog.set(Catalog((replace(service, leader=Leader(leader, 1)),)))
        await clock.turn(1.0)
        assert publication.changed_at == heard
        assert publication.since("triton", "a") == heard
    assert publication.since("triton", "other") is None
    catalog.set(Catalog((replace(service, instances=(A, B), leader=Leader("b", 3)),)))
    await clock.turn(1.0)
    assert publication.since("triton", "a") == 2.0  # the epoch changes nothing for Envoy
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
