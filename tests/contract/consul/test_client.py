"""Registrations, checks and maintenance of the Consul client, on a real agent and on the model."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import aiohttp
import pytest

from sidecar.consul.access import ConsulAccess
from sidecar.consul.api import ConsulApi
from sidecar.consul.client import MAX_OUTPUT, Consul
from sidecar.registry.checks import WITHDRAWN
from sidecar.registry.registration import (
    InstanceInfo,
    InstanceMeta,
    maintenance,
    maintenance_of_others,
    registration,
    withdrawn,
)
from sidecar.runtime.errors import NotFound, Rejected, SessionLost
from tests.support.consul_agent import ConsulAgent
from tests.support.consul_model import FakeConsul
from tests.support.instance_lock import NO_SESSION, acquire, lock_holder, open_session, register
from tests.support.instance_lock import instance as instance


async def test_a_registration_is_read_back_as_written(
    consul: ConsulApi, instance: InstanceInfo
) -> None:
    await register(consul, instance)
    (entry,) = (await consul.health_service(instance.service)).value
    assert (entry.id, entry.name, entry.address, entry.port) == (
        instance.id,
        instance.service,
        "127.0.0.1",
        8001,
    )
    assert entry.tags == ("standby", "model:echo", "blue")
    ours = {"sidecar_grpc_port": "9", "role": "standby", "hands_over": "true"}
    assert entry.meta == {"rack": "7", **ours, "withdrawal_reason": WITHDRAWN}
    assert (entry.weight_passing, entry.weight_warning) == (300, 150)
    statuses = {check.id: check.status for check in entry.checks}
    assert statuses[instance.verdict_check] == "passing"
    assert entry.status == "critical"  # nothing listens at the sidecar's address
    own = await consul.agent_service(instance.id)
    assert own is not None
    assert {check.id for check in own.checks} == {instance.verdict_check, instance.sidecar_check}


async def test_a_new_check_is_critical(consul: ConsulApi, instance: InstanceInfo) -> None:
    await register(consul, instance, status="none")
    own = await consul.agent_service(instance.id)
    assert own is not None
    assert {check.status for check in own.checks} == {"critical"}


async def test_registering_again_keeps_status_and_session(
    consul: ConsulApi, instance: InstanceInfo
) -> None:
    await register(consul, instance)
    session = await open_session(consul, instance)
    assert await acquire(consul, instance, session)
    await consul.register_service(registration(instance, InstanceMeta(role="primary", epoch=7)))
    own = await consul.agent_service(instance.id)
    assert own is not None
    assert own.meta["epoch"] == "7"
    assert {c.status for c in own.checks if c.id == instance.verdict_check} == {"passing"}
    await consul.session_renew(session)
    assert await lock_holder(consul, instance) == session


async def test_the_agent_keeps_the_token_of_our_registration(
    consul: ConsulApi, instance: InstanceInfo
) -> None:
    assert not await consul.keeps_token(instance.id)
    await register(consul, instance)
    assert await consul.keeps_token(instance.id)
    await consul.deregister_service(instance.id)
    assert not await consul.keeps_token(instance.id)


async def test_maintenance_makes_an_instance_critical_and_keeps_its_session_and_lock(
    consul: ConsulApi, instance: InstanceInfo
) -> None:
    await register(consul, instance)
    session = await open_session(consul, instance)
    await acquire(consul, instance, session)
    await consul.maintain_service(instance.id, "stopping in order")
    (entry,) = (await consul.health_service(instance.service)).value
    maintenance = [c for c in entry.checks if c.id == f"_service_maintenance:{instance.id}"]
    assert [check.status for check in maintenance] == ["critical"]
    await consul.register_service(registration(instance, InstanceMeta()))
    (entry,) = (await consul.health_service(instance.service)).value
    assert f"_service_maintenance:{instance.id}" in {check.id for check in entry.checks}
    assert await lock_holder(consul, instance) == session


async def test_maintenance_keeps_its_first_reason(
    consul: ConsulApi, instance: InstanceInfo
) -> None:
    await register(consul, instance)
    for reason in ("new disk", WITHDRAWN):
        await consul.maintain_service(instance.id, reason)
        entry = await consul.agent_service(instance.id)
        assert maintenance(entry) == maintenance_of_others(entry) == "new disk"
    await consul.maintain_service(instance.id, None)
    await consul.maintain_service(instance.id, WITHDRAWN)
    entry = await consul.agent_service(instance.id)
    assert withdrawn(entry)
    assert (maintenance(entry), maintenance_of_others(entry)) == (WITHDRAWN, None)


@pytest.fixture
async def node(
    request: pytest.FixtureRequest, consul: ConsulApi
) -> AsyncIterator[Callable[[str | None], Awaitable[None]]]:
    """Puts the node into maintenance mode with a reason; None ends it."""

    async def maintain(reason: str | None) -> None:
        if isinstance(consul, FakeConsul):
            await consul.maintain_node(reason)
            return
        agent: ConsulAgent = request.getfixturevalue("consul_agent")
        enable = "false" if reason is None else "true"
        url = f"http://{agent.http}/v1/agent/maintenance?enable={enable}&reason={reason}"
        async with aiohttp.ClientSession() as http, http.put(url) as answer:
            assert answer.status == 200

    yield maintain
    await maintain(None)


async def test_the_checks_of_a_node_include_those_of_its_services(
    consul: ConsulApi, instance: InstanceInfo, node: Callable[[str | None], Awaitable[None]]
) -> None:
    await register(consul, instance)
    session = await open_session(consul, instance)
    await acquire(consul, instance, session)
    own = await consul.agent_service(instance.id)
    assert own is not None
    seen = await consul.health_node(own.node)
    assert seen.known_leader
    assert {"serfHealth", instance.verdict_check} <= {check.id for check in seen.value}
    waiting = asyncio.ensure_future(consul.health_node(own.node, index=seen.index, wait=30))
    await node("kernel")
    news = await waiting
    assert not news.streamed
    [maintenance_check] = [check for check in news.value if check.id == "_node_maintenance"]
    assert (maintenance_check.status, maintenance_check.notes, maintenance_check.service_id) == (
        "critical",
        "kernel",
        "",
    )
    # Every query for an instance returns the check; the local agent's without delay.
    own = await consul.agent_service(instance.id)
    assert own is not None
    assert maintenance_check in own.checks
    (entry,) = (await consul.health_service(instance.service)).value
    assert maintenance_check in entry.checks
    assert entry.node == own.node
    assert await lock_holder(consul, instance) == session
    await node(None)
    own = await consul.agent_service(instance.id)
    assert own is not None
    assert "_node_maintenance" not in {check.id for check in own.checks}


async def test_an_unknown_node_has_no_checks(consul: ConsulApi) -> None:
    assert (await consul.health_node("no such node")).value == ()


async def test_deregistration_is_idempotent(consul: ConsulApi, instance: InstanceInfo) -> None:
    await register(consul, instance)
    await consul.deregister_service(instance.id)
    assert (await consul.health_service(instance.service)).value == ()
    assert await consul.agent_service(instance.id) is None
    await consul.deregister_service(instance.id)


async def test_an_unregistered_service_is_not_found(consul: ConsulApi) -> None:
    with pytest.raises(NotFound):
        await consul.update_check("nobody:verdict", "passing", "")
    with pytest.raises(NotFound):
        await consul.maintain_service("nobody", "stopping in order")
    assert await consul.agent_service("nobody") is None
    await consul.deregister_service("nobody")
    with pytest.raises(SessionLost):
        await consul.session_renew(NO_SESSION)
    await consul.session_destroy(NO_SESSION)


async def test_an_unknown_field_is_rejected(consul: ConsulApi, instance: InstanceInfo) -> None:
    body = registration(instance, InstanceMeta())
    checks = [{**check, "Colour": "blue"} for check in body["Checks"]]
    for wrong in ({**body, "Colour": "blue"}, {**body, "Checks": checks}):
        with pytest.raises(Rejected, match="Colour"):
            await consul.register_service(wrong)


async def test_an_id_may_be_long(consul: ConsulApi, instance: InstanceInfo) -> None:
    id = f"{instance.id}-{'x' * 255}"[:255]
    instance = replace(instance, id=id)
    await register(consul, instance)
    session = await open_session(consul, instance)
    await acquire(consul, instance, session)
    assert await lock_holder(consul, instance) == session
    await consul.maintain_service(id, "moved")
    own = await consul.agent_service(id)
    assert own is not None
    assert maintenance(own) == "moved"
    await consul.session_destroy(session)
    await consul.deregister_service(id)
    assert await consul.agent_service(id) is None


async def test_a_long_output_is_truncated(consul: ConsulApi, instance: InstanceInfo) -> None:
    await register(consul, instance)
    await consul.update_check(instance.verdict_check, "critical", "ä" * MAX_OUTPUT)
    own = await consul.agent_service(instance.id)
    assert own is not None
    (output,) = (c.output for c in own.checks if c.id == instance.verdict_check)
    assert set(output) == {"ä"}
    assert len(output.encode()) <= MAX_OUTPUT


async def test_is_consul_recognizes_an_agent(consul_agent: ConsulAgent) -> None:
    async with Consul(ConsulAccess(address=consul_agent.http)) as client:
        assert await client.is_consul()
