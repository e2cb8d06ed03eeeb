"""A catalog watch at its start: what the first catalog waits for, and what is unsettled in it."""

import pytest

from sidecar.election.keys import lock
from sidecar.runtime.errors import Unavailable
from sidecar.traffic.document import policy_key
from sidecar.traffic.policy import DEFAULTS, Mode
from tests.support.xds.catalog_scene import MINUTE, OWN, Scene, running
from tests.support.xds.catalog_scene import generation as generation
from tests.support.xds.catalog_scene import scene as scene


async def test_at_the_start_a_service_without_usable_instances_is_unsettled() -> None:
    scene = Scene("triton")
    scene.consul.up("xds", OWN)
    async with running(scene):
        assert not scene.service.settled
        await scene.clock.advance(0.9 * MINUTE)
        assert not scene.service.settled
        await scene.clock.advance(0.2 * MINUTE)
        assert scene.service.settled  # it really is empty


async def test_at_the_start_an_instance_without_a_verdict_is_waited_for() -> None:
    scene = Scene("triton")
    for name in "ab":
        scene.consul.up(name)
    scene.consul.model.set_check("b:verdict", "critical", "TTL expired", 0.0)
    async with running(scene):
        assert not scene.service.settled
        scene.consul.model.set_check("b:verdict", "passing", "fine", 0.0)
        await scene.change()
        assert scene.service.settled


async def test_at_the_start_an_empty_list_is_not_trusted() -> None:
    scene = Scene("triton")
    async with running(scene):
        await scene.clock.advance(10 * MINUTE)
        assert not scene.service.settled
        scene.consul.up("a")
        await scene.change()
        assert scene.service.settled


async def test_a_service_that_may_not_be_read_does_not_delay_the_others() -> None:
    scene = Scene("secret", "triton")
    scene.consul.forbidden_service = "secret"
    scene.consul.up("a")
    async with running(scene):
        await scene.clock.advance(4.5)  # its token may not be replicated yet
        assert scene.published == []
        await scene.clock.advance(1.0)
        secret, triton = scene.published[-1].services
        assert (secret.settled, triton.settled) == (False, True)


@pytest.mark.parametrize("part", ["unlisted", "hidden lock", "hidden policy", "keyless"])
async def test_one_unreadable_part_makes_a_service_unsettled(part: str) -> None:
    scene = Scene("triton", "other")
    for service in ("triton", "other"):
        scene.consul.up(service[0], service)
    match part:
        case "unlisted":
            scene.consul.forbidden_instances = "triton"
        case "hidden lock":
            scene.consul.forbidden_key = lock.prefix("triton")
        case "hidden policy":
            scene.consul.forbidden_key = policy_key("triton")
        case "keyless":  # a list shows nothing, and only a query for the key is refused
            scene.consul.omitted_key = policy_key("triton")
    async with running(scene):
        await scene.clock.advance(5.5)
        triton, other = scene.published[-1].services
        assert (triton.settled, other.settled) == (False, True)


async def test_a_token_that_arrives_in_time_delays_nothing() -> None:
    scene = Scene("secret", "triton")
    scene.consul.forbidden_service = "secret"
    for service in ("secret", "triton"):
        scene.consul.up(service[0], service)
    async with running(scene):
        await scene.clock.advance(2.0)
        scene.consul.forbidden_service = ""
        await scene.clock.advance(2.0)
        [first] = scene.published
        assert [each.settled for each in first.services] == [True, True]


@pytest.mark.parametrize("refused_too", [False, True])
async def test_a_watch_without_an_answer_is_waited_for(refused_too: bool) -> None:
    services = ("late", "triton", *(["secret"] if refused_too else []))
    scene = Scene(*services)
    scene.consul.forbidden_service = "secret"
    scene.consul.times_out_on = lock.prefix("late")
    for service in services:
        scene.consul.up(service[0], service)
    async with running(scene):
        await scene.clock.advance(20.0)
        assert scene.published == []
        await scene.clock.advance(5.0)
        assert [each.settled for each in scene.published[-1].services][:2] == [False, True]


@pytest.mark.parametrize("part", ["instances", "lock"])
async def test_a_late_refusal_counts_too(part: str) -> None:
    scene = Scene("secret", "triton")
    scene.consul.times_out_on = "secret" if part == "instances" else lock.prefix("secret")
    for service in ("secret", "triton"):
        scene.consul.up(service[0], service)
    async with running(scene):
        await scene.clock.advance(6.0)
        assert scene.published == []
        if part == "instances":
            scene.consul.forbidden_instances = "secret"
        else:
            scene.consul.forbidden_key = lock.prefix("secret")
        await scene.clock.advance(4.0)  # it queries after 7 s
        assert [each.settled for each in scene.published[-1].services] == [False, True]


@pytest.mark.parametrize("part", ["instances", "lock"])
async def test_a_service_that_is_no_longer_refused_is_waited_for_again(part: str) -> None:
    scene = Scene("late", "triton")
    if part == "instances":
        scene.consul.forbidden_instances = "late"
    else:
        scene.consul.forbidden_key = lock.prefix("late")
    scene.consul.times_out_on = policy_key("late")
    for service in ("late", "triton"):
        scene.consul.up(service[0], service)
    async with running(scene):
        await scene.clock.advance(2.0)
        scene.consul.forbidden_instances = scene.consul.forbidden_key = ""
        await scene.clock.advance(5.0)
        assert scene.published == []
        scene.consul.times_out_on = ""
        await scene.clock.advance(15.0)
        [first] = scene.published
        assert [each.settled for each in first.services] == [True, True]


async def test_an_unsettled_service_has_the_policy_that_was_read() -> None:
    scene = Scene("other", "triton")
    scene.consul.up("a", "other")
    scene.consul.order('{"mode": "strict"}')
    scene.consul.forbidden_instances = "triton"
    async with running(scene):
        await scene.clock.advance(MINUTE)
        _, triton = scene.published[-1].services
        assert (triton.settled, triton.policy.mode) == (False, Mode.STRICT)


async def test_the_first_catalog_waits_from_the_first_answer_on() -> None:
    scene = Scene("other", "triton")
    for service in ("other", "triton"):
        scene.consul.up(service[0], service)
    scene.consul.order('{"mode": "strict"}')
    scene.consul.fault = Unavailable("Consul: connection refused")
    async with running(scene):
        await scene.clock.advance(10 * MINUTE)
        # Consul is back, and one of the watches has just started its longest pause.
        scene.consul.fault, scene.consul.times_out_on = None, policy_key("triton")
        await scene.clock.advance(15.0)
        assert scene.published == []
        scene.consul.times_out_on = ""
        await scene.clock.advance(15.0)
        [first] = scene.published
        assert [each.policy.mode for each in first.services] == [DEFAULTS.mode, Mode.STRICT]


async def test_without_any_answer_there_is_no_catalog() -> None:
    scene = Scene("triton")
    scene.consul.fault = Unavailable("Consul: connection refused")
    async with running(scene):
        await scene.clock.advance(MINUTE)
        assert scene.published == []
