"""Blocking, consistent and streamed queries of the Consul client, on a real agent and the model."""

import asyncio

import pytest

from sidecar.consul.access import ConsulAccess
from sidecar.consul.api import ConsulApi
from sidecar.consul.client import Consul
from sidecar.registry.registration import InstanceInfo
from sidecar.runtime.errors import Unavailable
from tests.support.consul_model import Generation
from tests.support.instance_lock import instance as instance
from tests.support.instance_lock import register


async def test_a_changed_status_wakes_a_blocking_query(
    consul: ConsulApi, instance: InstanceInfo
) -> None:
    await register(consul, instance)
    before = await consul.health_service(instance.service)
    watcher = asyncio.create_task(
        consul.health_service(instance.service, index=before.index, wait=30)
    )
    await asyncio.sleep(0.1)
    await consul.update_check(instance.verdict_check, "critical", "bad")
    after = await asyncio.wait_for(watcher, 20)
    assert after.index > before.index
    if after.value[0].status == before.value[0].status:  # woken by Consul's check
        after = await consul.health_service(instance.service, index=before.index, wait=1)
    (entry,) = after.value
    assert {c.status for c in entry.checks if c.id == instance.verdict_check} == {"critical"}


async def test_a_blocking_query_returns_after_its_wait(
    consul: ConsulApi, instance: InstanceInfo
) -> None:
    await register(consul, instance)
    first = await consul.kv_prefix("nothing/here/")
    again = await asyncio.wait_for(
        consul.kv_prefix("nothing/here/", index=max(1, first.index), wait=0.2), 20
    )
    assert again.value == ()


async def test_the_servers_answer_a_query_without_an_index(
    consul: ConsulApi, instance: InstanceInfo
) -> None:
    await register(consul, instance)
    for consistent in (False, True):
        found = await consul.health_service(instance.service, consistent=consistent)
        keys = await consul.kv_prefix("nothing/here/", consistent=consistent)
        one = await consul.kv("nothing/here", consistent=consistent)
        for answer in (found, keys, one):
            assert (answer.known_leader, answer.streamed) == (True, False)


async def test_later_agents_stream_a_blocking_query_on_a_service(
    consul: ConsulApi, generation: Generation, instance: InstanceInfo
) -> None:
    """A streamed answer has the same entries, and no leader header."""
    await register(consul, instance)
    streamed = generation is Generation.STREAMING
    name = instance.service
    plain = await consul.health_service(name)
    while True:
        blocking = [await consul.health_service(name, index=i, wait=0.2) for i in (1, plain.index)]
        asked = await consul.health_service(name, index=1, wait=0.2, streamed=False)
        before, plain = plain, await consul.health_service(name)
        if before == plain:  # else the check of the sidecar has just run
            break
    for shown in blocking:
        assert (shown.streamed, shown.known_leader) == (streamed, not streamed)
        assert (shown.value, shown.index) == (plain.value, plain.index)
    assert (asked.streamed, asked.known_leader, asked.value) == (False, True, plain.value)
    missing = await consul.health_service(f"{name}-none", index=plain.index, wait=0.2)
    assert (missing.value, missing.streamed) == ((), streamed)
    assert missing.index > 1


async def test_a_blocking_query_on_keys_is_not_streamed(consul: ConsulApi) -> None:
    first = await consul.kv_prefix("nothing/here/")
    again = await consul.kv_prefix("nothing/here/", index=max(1, first.index), wait=0.1)
    assert (again.known_leader, again.streamed) == (True, False)


async def test_an_unreachable_datacenter_is_unavailable(consul: ConsulApi) -> None:
    """Later agents would stream an empty list for it."""
    for index in (0, 1, 1000):
        with pytest.raises(Unavailable):
            await consul.health_service("triton", index=index, wait=0.2, dc="nowhere")


async def test_a_refused_connection_is_unavailable() -> None:
    async with Consul(ConsulAccess(address="127.0.0.1:9", timeout=2.0)) as consul:
        with pytest.raises(Unavailable):
            await consul.health_service("triton")


async def test_without_acls_all_instances_are_visible(
    consul: ConsulApi, instance: InstanceInfo
) -> None:
    assert await consul.sees_all(instance.service)
    assert not (await consul.health_service(instance.service)).filtered
