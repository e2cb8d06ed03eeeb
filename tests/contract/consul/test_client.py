"""The contract of the Consul client, for a real agent and for the model."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import aiohttp
import pytest

from sidecar.consul.access import ConsulAccess
from sidecar.consul.api import (
    ConsulApi,
    Delete,
    HoldsLock,
    KVEntry,
    Lock,
    Operation,
    Set,
    Unchanged,
    Unlock,
)
from sidecar.consul.client import MAX_OUTPUT, Consul
from sidecar.election.keys import lock
from sidecar.election.keys.lock import Claim
from sidecar.registry.checks import WITHDRAWN
from sidecar.registry.registration import (
    InstanceInfo,
    InstanceMeta,
    maintenance,
    maintenance_of_others,
    registration,
    withdrawn,
)
from sidecar.runtime.errors import Conflict, NotFound, Rejected, SessionLost, Unavailable
from tests.support.consul_agent import ConsulAgent
from tests.support.consul_model import FakeConsul, Generation

_names = itertools.count()
NO_SESSION = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def instance() -> InstanceInfo:
    """A service name for each test, since they share one agent."""
    service = f"triton{next(_names)}"
    return InstanceInfo(
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


async def register(consul: ConsulApi, instance: InstanceInfo, status: str = "passing") -> None:
    await consul.register_service(registration(instance, InstanceMeta()))
    if status == "passing":
        await consul.update_check(instance.verdict_check, "passing", "PASSING OK")


async def open_session(consul: ConsulApi, instance: InstanceInfo, lock_delay: float = 0.0) -> str:
    return await consul.session_create(
        "test", ttl=10, lock_delay=lock_delay, service_checks=[instance.verdict_check]
    )


async def acquire(consul: ConsulApi, instance: InstanceInfo, session: str) -> int:
    lock_key, epoch_key = lock.lock_key(instance.service), lock.epoch_key(instance.service)
    claim = lock.dumps(Claim(instance.id, session, "now"))
    done = await consul.transact(Lock(lock_key, claim, session), Set(epoch_key, claim))
    return done[epoch_key]


async def release(consul: ConsulApi, instance: InstanceInfo, session: str) -> None:
    await consul.transact(Unlock(lock.lock_key(instance.service), b"released", session))


async def found(consul: ConsulApi, instance: InstanceInfo) -> dict[str, KVEntry]:
    """The election's keys by the last part of their names."""
    prefix = lock.prefix(instance.service)
    entries = (await consul.kv_prefix(prefix)).value
    return {entry.key.removeprefix(prefix): entry for entry in entries}


async def holder(consul: ConsulApi, instance: InstanceInfo) -> str | None:
    answer = await consul.kv_prefix(lock.prefix(instance.service))
    return lock.read(instance.service, answer.value, answer.index).session


async def test_a_registration_is_read_back_as_it_was_written(
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
    told = {"sidecar_grpc_port": "9", "role": "standby", "hands_over": "true"}
    assert entry.meta == {"rack": "7", **told, "withdrawal_reason": WITHDRAWN}
    assert (entry.weight_passing, entry.weight_warning) == (300, 150)
    statuses = {check.id: check.status for check in entry.checks}
    assert statuses[instance.verdict_check] == "passing"
    assert entry.status == "critical"  # nothing listens at the sidecar's address
    own = await consul.agent_service(instance.id)
    assert own is not None
    assert {check.id for check in own.checks} == {instance.verdict_check, instance.sidecar_check}


async def test_a_fresh_check_is_critical(consul: ConsulApi, instance: InstanceInfo) -> None:
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
    assert await holder(consul, instance) == session


async def test_the_agent_keeps_the_token_of_a_registration_that_is_ours(
    consul: ConsulApi, instance: InstanceInfo
) -> None:
    assert not await consul.keeps_token(instance.id)
    await register(consul, instance)
    assert await consul.keeps_token(instance.id)
    await consul.deregister_service(instance.id)
    assert not await consul.keeps_token(instance.id)


async def test_maintenance_withdraws_and_keeps_session_and_lock(
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
    assert await holder(consul, instance) == session


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
    """Put the node into maintenance mode for a reason, or end it."""

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
    [found] = [check for check in news.value if check.id == "_node_maintenance"]
    assert (found.status, found.notes, found.service_id) == ("critical", "kernel", "")
    # Wherever the instance is read with its checks, by the agent at once.
    own = await consul.agent_service(instance.id)
    assert own is not None
    assert found in own.checks
    (entry,) = (await consul.health_service(instance.service)).value
    assert found in entry.checks
    assert entry.node == own.node
    assert await holder(consul, instance) == session
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
    assert await holder(consul, instance) == session
    await consul.maintain_service(id, "moved")
    own = await consul.agent_service(id)
    assert own is not None
    assert maintenance(own) == "moved"
    await consul.session_destroy(session)
    await consul.deregister_service(id)
    assert await consul.agent_service(id) is None


async def test_a_long_output_is_cut(consul: ConsulApi, instance: InstanceInfo) -> None:
    await register(consul, instance)
    await consul.update_check(instance.verdict_check, "critical", "ä" * MAX_OUTPUT)
    own = await consul.agent_service(instance.id)
    assert own is not None
    (output,) = (c.output for c in own.checks if c.id == instance.verdict_check)
    assert set(output) == {"ä"}
    assert len(output.encode()) <= MAX_OUTPUT


async def test_a_changed_status_wakes_a_blocked_watcher(
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
    if after.value[0].status == before.value[0].status:  # Consul's own poll has woken it first
        after = await consul.health_service(instance.service, index=before.index, wait=1)
    (entry,) = after.value
    assert {c.status for c in entry.checks if c.id == instance.verdict_check} == {"critical"}


async def test_a_blocking_query_returns_when_its_wait_is_over(
    consul: ConsulApi, instance: InstanceInfo
) -> None:
    await register(consul, instance)
    first = await consul.kv_prefix("nothing/here/")
    again = await asyncio.wait_for(
        consul.kv_prefix("nothing/here/", index=max(1, first.index), wait=0.2), 20
    )
    assert again.value == ()


async def test_without_an_index_the_servers_answer(
    consul: ConsulApi, instance: InstanceInfo
) -> None:
    await register(consul, instance)
    for consistent in (False, True):
        found = await consul.health_service(instance.service, consistent=consistent)
        keys = await consul.kv_prefix("nothing/here/", consistent=consistent)
        one = await consul.kv("nothing/here", consistent=consistent)
        for answer in (found, keys, one):
            assert (answer.known_leader, answer.streamed) == (True, False)


async def test_a_blocking_query_on_a_service_is_streamed_by_later_agents(
    consul: ConsulApi, generation: Generation, instance: InstanceInfo
) -> None:
    """Then it says nothing about a leader, but has the same entries."""
    await register(consul, instance)
    streamed = generation is Generation.STREAMING
    name = instance.service
    plain = await consul.health_service(name)
    while True:
        blocking = [await consul.health_service(name, index=i, wait=0.2) for i in (1, plain.index)]
        asked = await consul.health_service(name, index=1, wait=0.2, streamed=False)
        before, plain = plain, await consul.health_service(name)
        if before == plain:  # or the check of the sidecar has just been made
            break
    for shown in blocking:
        assert (shown.streamed, shown.known_leader) == (streamed, not streamed)
        assert (shown.value, shown.index) == (plain.value, plain.index)
    assert (asked.streamed, asked.known_leader, asked.value) == (False, True, plain.value)
    nobody = await consul.health_service(f"{name}-none", index=plain.index, wait=0.2)
    assert (nobody.value, nobody.streamed) == ((), streamed)
    assert nobody.index > 1


async def test_a_blocking_query_on_keys_is_not_streamed(consul: ConsulApi) -> None:
    first = await consul.kv_prefix("nothing/here/")
    again = await consul.kv_prefix("nothing/here/", index=max(1, first.index), wait=0.1)
    assert (again.known_leader, again.streamed) == (True, False)


async def test_an_unreachable_datacenter_is_unavailable(consul: ConsulApi) -> None:
    """Later agents stream an empty list for it."""
    for index in (0, 1, 1000):
        with pytest.raises(Unavailable):
            await consul.health_service("triton", index=index, wait=0.2, dc="nowhere")


async def test_no_session_on_a_critical_or_missing_check(
    consul: ConsulApi, instance: InstanceInfo
) -> None:
    with pytest.raises(Rejected):
        await open_session(consul, instance)
    await register(consul, instance, status="none")
    with pytest.raises(Rejected):
        await open_session(consul, instance)


async def test_only_one_session_gets_the_lock(consul: ConsulApi, instance: InstanceInfo) -> None:
    await register(consul, instance)
    first, second = [await open_session(consul, instance) for _ in range(2)]
    epoch = await acquire(consul, instance, first)
    with pytest.raises(Conflict):
        await acquire(consul, instance, second)
    assert await acquire(consul, instance, first) == epoch  # holding it already is no new tenure
    answer = await consul.kv_prefix(lock.prefix(instance.service))
    read = lock.read(instance.service, answer.value, answer.index)
    assert (read.session, read.instance, read.epoch) == (first, instance.id, epoch)
    assert read.index >= epoch


async def test_each_tenure_has_a_higher_epoch(consul: ConsulApi, instance: InstanceInfo) -> None:
    await register(consul, instance)
    epochs = []
    for _ in range(3):
        session = await open_session(consul, instance)
        epochs.append(await acquire(consul, instance, session))
        await release(consul, instance, session)
        assert (await found(consul, instance))["lock"].value == b"released"
        await consul.session_destroy(session)
    assert epochs == sorted(set(epochs))
    assert epochs[0] > 0


async def test_a_critical_check_frees_the_lock_and_ends_the_session(
    consul: ConsulApi, instance: InstanceInfo
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


@pytest.mark.parametrize("released", [True, False])
async def test_the_lock_delay_follows_an_ended_session_but_no_release(
    consul: ConsulApi, instance: InstanceInfo, released: bool
) -> None:
    await register(consul, instance)
    session = await open_session(consul, instance, lock_delay=30)
    await acquire(consul, instance, session)
    if released:
        await release(consul, instance, session)
    await consul.session_destroy(session)
    other = await open_session(consul, instance)
    if released:
        assert await acquire(consul, instance, other)
    else:
        with pytest.raises(Conflict):
            await acquire(consul, instance, other)


async def test_a_release_by_another_session_changes_nothing(
    consul: ConsulApi, instance: InstanceInfo
) -> None:
    await register(consul, instance)
    first, second = [await open_session(consul, instance) for _ in range(2)]
    await acquire(consul, instance, first)
    with pytest.raises(Conflict):
        await release(consul, instance, second)
    assert await holder(consul, instance) == first
    await consul.session_destroy(NO_SESSION)


async def test_a_lock_that_is_free_cannot_be_released(
    consul: ConsulApi, instance: InstanceInfo
) -> None:
    await register(consul, instance)
    session = await open_session(consul, instance)
    with pytest.raises(Conflict):
        await release(consul, instance, session)
    await acquire(consul, instance, session)
    await release(consul, instance, session)
    with pytest.raises(Conflict):
        await release(consul, instance, session)


async def test_a_write_can_depend_on_the_index(consul: ConsulApi, instance: InstanceInfo) -> None:
    key = lock.prefix(instance.service) + "order"
    with pytest.raises(Conflict):
        await consul.transact(Set(key, b"1", index=3))
    first = (await consul.transact(Set(key, b"1", index=0)))[key]
    for stale in (0, first - 1):
        with pytest.raises(Conflict):
            await consul.transact(Set(key, b"2", index=stale))
    second = (await consul.transact(Set(key, b"2", index=first)))[key]
    entry = (await found(consul, instance))["order"]
    assert (entry.value, entry.modify_index, entry.create_index) == (b"2", second, first)


async def test_a_key_exists_or_is_none(consul: ConsulApi, instance: InstanceInfo) -> None:
    key = lock.prefix(instance.service) + "order"
    await consul.transact(Set(key + "-draft", b"1"))
    assert (await consul.kv(key, consistent=True)).value is None
    await consul.transact(Set(key, b"2"))
    answer = await consul.kv(key, consistent=True)
    assert answer.known_leader
    assert answer.value == (await found(consul, instance))["order"]


async def test_a_deletion_depends_on_the_index(consul: ConsulApi, instance: InstanceInfo) -> None:
    key = lock.prefix(instance.service) + "order"
    index = (await consul.transact(Set(key, b"1")))[key]
    with pytest.raises(Conflict):
        await consul.transact(Delete(key, index - 1))
    assert await consul.transact(Delete(key, index)) == {}
    assert await found(consul, instance) == {}
    await consul.transact(Delete(key, index))  # one that is gone already is fine


async def test_a_transaction_is_atomic(consul: ConsulApi, instance: InstanceInfo) -> None:
    await register(consul, instance)
    prefix = lock.prefix(instance.service)
    first, second = [await open_session(consul, instance) for _ in range(2)]
    await acquire(consul, instance, first)
    await consul.transact(Set(prefix + "order", b"1"))
    before = await found(consul, instance)
    failing: list[Operation] = [
        Set(prefix + "outcome", b"x", index=1),
        Delete(prefix + "order", 1),
        Lock(prefix + "lock", b"x", second),
        Unlock(prefix + "lock", b"x", second),
        HoldsLock(prefix + "lock", second),
        HoldsLock(prefix + "nothing", first),
    ]
    for operation in failing:
        with pytest.raises(Conflict):
            await consul.transact(
                Set(prefix + "order", b"2"), Set(prefix + "proof", b"new"), operation
            )
        assert await found(consul, instance) == before


async def test_the_keys_of_one_transaction_have_one_index(
    consul: ConsulApi, instance: InstanceInfo
) -> None:
    await register(consul, instance)
    prefix = lock.prefix(instance.service)
    session = await open_session(consul, instance)
    index = (await consul.transact(Set(prefix + "order", b"1")))[prefix + "order"]
    done = await consul.transact(
        Lock(prefix + "lock", b"v", session),
        Set(prefix + "epoch", b"v"),
        Delete(prefix + "order", index),
        Set(prefix + "outcome", b"done"),
    )
    assert set(done) == {prefix + "lock", prefix + "epoch", prefix + "outcome"}
    assert len(set(done.values())) == 1
    created = {entry.create_index for entry in (await found(consul, instance)).values()}
    assert created == set(done.values())


async def test_a_write_that_changes_nothing_keeps_the_index(
    consul: ConsulApi, instance: InstanceInfo
) -> None:
    key = lock.prefix(instance.service) + "pause"
    first = await consul.transact(Set(key, b"same"))
    assert await consul.transact(Set(key, b"same")) == first
    assert (await consul.transact(Set(key, b"other")))[key] > first[key]


async def test_only_the_holder_may_write(consul: ConsulApi, instance: InstanceInfo) -> None:
    await register(consul, instance)
    key = lock.lock_key(instance.service)
    first, second = [await open_session(consul, instance) for _ in range(2)]
    await acquire(consul, instance, first)
    await consul.transact(HoldsLock(key, first), Set(key + "-note", b"mine"))
    with pytest.raises(Conflict):
        await consul.transact(HoldsLock(key, second), Set(key + "-note", b"theirs"))
    assert (await found(consul, instance))["lock-note"].value == b"mine"


async def test_a_plain_write_keeps_the_lock_and_resets_its_count(
    consul: ConsulApi, instance: InstanceInfo
) -> None:
    """So the count (LockIndex) is not an epoch."""
    await register(consul, instance)
    session = await open_session(consul, instance)
    await acquire(consul, instance, session)
    assert (await found(consul, instance))["lock"].lock_index == 1
    await consul.transact(Set(lock.lock_key(instance.service), b"edited"))
    entry = (await found(consul, instance))["lock"]
    assert (entry.session, entry.lock_index) == (session, 0)


async def test_a_lost_session_can_neither_lock_nor_unlock(
    consul: ConsulApi, instance: InstanceInfo
) -> None:
    await register(consul, instance)
    session = await open_session(consul, instance)
    await acquire(consul, instance, session)
    await consul.session_destroy(session)
    with pytest.raises(SessionLost):
        await acquire(consul, instance, session)
    with pytest.raises(Conflict):  # Consul looks at the key's session alone
        await release(consul, instance, session)


async def test_a_refused_connection_is_unavailable() -> None:
    async with Consul(ConsulAccess(address="127.0.0.1:9", timeout=2.0)) as consul:
        with pytest.raises(Unavailable):
            await consul.health_service("triton")


async def test_a_deleted_key_has_changed(consul: ConsulApi, instance: InstanceInfo) -> None:
    key = lock.prefix(instance.service) + "thing"
    index = (await consul.transact(Set(key, b"x")))[key]
    other = lock.prefix(instance.service) + "other"
    await consul.transact(Unchanged(key, index), Set(other, b"1"))
    with pytest.raises(Conflict):
        await consul.transact(Unchanged(key, index + 1), Set(other, b"2"))
    await consul.transact(Delete(key, index))
    with pytest.raises(Conflict):
        await consul.transact(Unchanged(key, index), Delete(key, index), Set(other, b"3"))
    assert {e.value for e in (await consul.kv_prefix(other)).value} == {b"1"}


async def test_without_acls_every_instance_is_visible(
    consul: ConsulApi, instance: InstanceInfo
) -> None:
    assert await consul.sees_all(instance.service)
    assert not (await consul.health_service(instance.service)).filtered
