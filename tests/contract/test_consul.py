"""What the door to Consul promises, kept by a real agent and by the model alike."""

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest

from sidecar.consul import MAX_OUTPUT, Consul
from sidecar.consul_api import ConsulApi
from sidecar.election import lock
from sidecar.errors import Rejected, SessionLost, Unavailable
from sidecar.registry.record import Instance, Standing, registration
from sidecar.settings.tables import ConsulSettings
from tests.consul_agent import ConsulAgent
from tests.consul_model import FakeConsul

_names = itertools.count()


@pytest.fixture(params=["agent", "model"])
async def consul(
    request: pytest.FixtureRequest, consul_agent: ConsulAgent
) -> AsyncIterator[ConsulApi]:
    if request.param == "model":
        yield FakeConsul()
    else:
        async with Consul(ConsulSettings(address=consul_agent.http)) as door:
            yield door


@pytest.fixture
def instance() -> Instance:
    """Every test has a service of its own: they share one agent."""
    service = f"triton{next(_names)}"
    return Instance(
        id=f"{service}-0",
        service=service,
        address="127.0.0.1",
        port=8001,
        weight=3,
        tags=("blue",),
        meta=(("rack", "7"),),
        models=("echo",),
        sidecar="127.0.0.1:9",
        liveness="live",
    )


async def register(consul: ConsulApi, instance: Instance, status: str = "passing") -> None:
    await consul.register_service(registration(instance, Standing()))
    if status == "passing":
        await consul.update_check(instance.verdict_check, "passing", "PASSING OK")


async def open_session(consul: ConsulApi, instance: Instance, lock_delay: float = 0.0) -> str:
    return await consul.session_create(
        "test", ttl=10, lock_delay=lock_delay, service_checks=[instance.verdict_check]
    )


async def acquire(consul: ConsulApi, instance: Instance, session: str) -> int | None:
    keys = lock.lock_key(instance.service), lock.epoch_key(instance.service)
    return await consul.acquire(*keys, session, lock.claim(instance.id, session, "now"))


async def holder(consul: ConsulApi, instance: Instance) -> str | None:
    answer = await consul.kv_prefix(lock.prefix(instance.service))
    return lock.read(instance.service, answer.value, answer.index).session


async def test_a_registration_is_read_back_as_it_was_written(
    consul: ConsulApi, instance: Instance
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
    assert entry.meta == {"rack": "7", "sidecar_grpc_port": "9", "role": "standby"}
    assert (entry.weight_passing, entry.weight_warning) == (300, 150)
    statuses = {check.id: check.status for check in entry.checks}
    assert statuses[instance.verdict_check] == "passing"
    assert entry.status == "critical"  # nobody listens where the sidecar should
    own = await consul.agent_service(instance.id)
    assert own is not None
    assert {check.id for check in own.checks} == {instance.verdict_check, instance.sidecar_check}


async def test_a_fresh_check_is_critical(consul: ConsulApi, instance: Instance) -> None:
    await register(consul, instance, status="none")
    own = await consul.agent_service(instance.id)
    assert own is not None
    assert {check.status for check in own.checks} == {"critical"}


async def test_registering_again_keeps_status_and_session(
    consul: ConsulApi, instance: Instance
) -> None:
    await register(consul, instance)
    session = await open_session(consul, instance)
    assert await acquire(consul, instance, session)
    await consul.register_service(registration(instance, Standing(role="primary", epoch=7)))
    own = await consul.agent_service(instance.id)
    assert own is not None
    assert own.meta["epoch"] == "7"
    assert {c.status for c in own.checks if c.id == instance.verdict_check} == {"passing"}
    await consul.session_renew(session)
    assert await holder(consul, instance) == session


async def test_maintenance_withdraws_and_keeps_session_and_lock(
    consul: ConsulApi, instance: Instance
) -> None:
    await register(consul, instance)
    session = await open_session(consul, instance)
    await acquire(consul, instance, session)
    await consul.maintain_service(instance.id, "stopping in order")
    (entry,) = (await consul.health_service(instance.service)).value
    maintenance = [c for c in entry.checks if c.id == f"_service_maintenance:{instance.id}"]
    assert [check.status for check in maintenance] == ["critical"]
    await consul.register_service(registration(instance, Standing()))
    (entry,) = (await consul.health_service(instance.service)).value
    assert f"_service_maintenance:{instance.id}" in {check.id for check in entry.checks}
    assert await holder(consul, instance) == session


async def test_what_is_deregistered_is_gone_and_may_be_gone_already(
    consul: ConsulApi, instance: Instance
) -> None:
    await register(consul, instance)
    await consul.deregister_service(instance.id)
    assert (await consul.health_service(instance.service)).value == ()
    assert await consul.agent_service(instance.id) is None
    await consul.deregister_service(instance.id)


async def test_a_check_that_nobody_registered_is_refused(consul: ConsulApi) -> None:
    with pytest.raises(Rejected):
        await consul.update_check("nobody:verdict", "passing", "")


async def test_a_long_output_is_cut(consul: ConsulApi, instance: Instance) -> None:
    await register(consul, instance)
    await consul.update_check(instance.verdict_check, "critical", "ä" * MAX_OUTPUT)
    own = await consul.agent_service(instance.id)
    assert own is not None
    (output,) = (c.output for c in own.checks if c.id == instance.verdict_check)
    assert set(output) == {"ä"}
    assert len(output.encode()) <= MAX_OUTPUT


async def test_a_changed_status_wakes_a_blocked_watcher(
    consul: ConsulApi, instance: Instance
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
    (entry,) = after.value
    assert {c.status for c in entry.checks if c.id == instance.verdict_check} == {"critical"}


async def test_a_blocking_query_returns_when_its_wait_is_over(
    consul: ConsulApi, instance: Instance
) -> None:
    await register(consul, instance)
    first = await consul.kv_prefix("nothing/here/")
    again = await asyncio.wait_for(
        consul.kv_prefix("nothing/here/", index=max(1, first.index), wait=0.2), 20
    )
    assert again.value == ()


async def test_no_session_on_a_critical_check(consul: ConsulApi, instance: Instance) -> None:
    await register(consul, instance, status="none")
    with pytest.raises(Rejected):
        await open_session(consul, instance)


async def test_only_one_session_gets_the_lock(consul: ConsulApi, instance: Instance) -> None:
    await register(consul, instance)
    first, second = [await open_session(consul, instance) for _ in range(2)]
    epoch = await acquire(consul, instance, first)
    assert epoch
    assert await acquire(consul, instance, second) is None
    assert await acquire(consul, instance, first) == epoch  # holding it already is no new tenure
    answer = await consul.kv_prefix(lock.prefix(instance.service))
    read = lock.read(instance.service, answer.value, answer.index)
    assert (read.session, read.instance, read.epoch) == (first, instance.id, epoch)


async def test_each_tenure_has_a_higher_epoch(consul: ConsulApi, instance: Instance) -> None:
    await register(consul, instance)
    epochs = []
    for _ in range(3):
        session = await open_session(consul, instance)
        epochs.append(await acquire(consul, instance, session) or 0)
        assert await consul.release(lock.lock_key(instance.service), session)
        await consul.session_destroy(session)
    assert epochs == sorted(set(epochs))
    assert epochs[0] > 0


async def test_a_critical_check_frees_the_lock_and_ends_the_session(
    consul: ConsulApi, instance: Instance
) -> None:
    await register(consul, instance)
    session = await open_session(consul, instance)
    await acquire(consul, instance, session)
    await consul.update_check(instance.verdict_check, "critical", "bad")
    assert await holder(consul, instance) is None
    with pytest.raises(SessionLost):
        await consul.session_renew(session)
    with pytest.raises(SessionLost):
        await acquire(consul, instance, session)


@pytest.mark.parametrize(("released", "free_at_once"), [(True, True), (False, False)])
async def test_the_lock_delay_follows_an_ended_session_but_no_release(
    consul: ConsulApi, instance: Instance, released: bool, free_at_once: bool
) -> None:
    await register(consul, instance)
    session = await open_session(consul, instance, lock_delay=30)
    await acquire(consul, instance, session)
    if released:
        await consul.release(lock.lock_key(instance.service), session)
    await consul.session_destroy(session)
    other = await open_session(consul, instance)
    assert (await acquire(consul, instance, other) is not None) == free_at_once


async def test_a_release_by_somebody_else_changes_nothing(
    consul: ConsulApi, instance: Instance
) -> None:
    await register(consul, instance)
    first, second = [await open_session(consul, instance) for _ in range(2)]
    await acquire(consul, instance, first)
    assert not await consul.release(lock.lock_key(instance.service), second)
    assert await holder(consul, instance) == first
    await consul.session_destroy("00000000-0000-0000-0000-000000000000")


async def test_nobody_at_the_address_is_unavailable() -> None:
    async with Consul(ConsulSettings(address="127.0.0.1:9", timeout=2.0)) as door:
        with pytest.raises(Unavailable):
            await door.health_service("triton")
