"""How long Envoys take to acknowledge a change."""

from sidecar.xds.ads.subscription import Reply
from sidecar.xds.config.snapshot import ENDPOINT
from sidecar.xds.envoys.convergence import Convergence
from tests.support.xds.ads_client import FIRST, SWAPPED


def reply(*, news: bool = True) -> Reply:
    return Reply(ENDPOINT, "1", "v", (), (), SWAPPED, news)


def test_the_last_acknowledgement_counts() -> None:
    seen: list[float] = []
    convergence = Convergence(seen.append)
    one, two, three = reply(), reply(), reply()
    for each in (one, two, three):
        convergence.sent(each, 10.0)
    convergence.answered(one, 10.5)
    convergence.answered(two, 11.0)
    assert seen == []
    convergence.answered(three, None)  # it disconnected, and no longer counts
    assert seen == [1.0]


def test_replies_that_follow_an_ack_belong_to_the_same_change() -> None:
    seen: list[float] = []
    convergence = Convergence(seen.append)
    clusters, routes = reply(), reply()
    convergence.sent(clusters, 10.0)
    convergence.sent(routes, 10.0)  # before the ACK counts
    convergence.answered(clusters, 10.5)
    convergence.answered(routes, 10.6)
    assert [round(each, 3) for each in seen] == [0.6]


def test_replies_without_a_change_and_changes_without_an_ack_do_not_count() -> None:
    seen: list[float] = []
    convergence = Convergence(seen.append)
    greeting, refused = reply(news=False), reply()
    convergence.sent(greeting, 10.0)
    convergence.answered(greeting, 10.5)
    convergence.sent(refused, 10.0)
    convergence.answered(refused, None)
    convergence.answered(Reply(ENDPOINT, "9", "v", (), (), FIRST, True), 12.0)
    assert seen == []
