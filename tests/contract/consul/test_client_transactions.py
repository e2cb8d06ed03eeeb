"""Keys and transactions of the Consul client, on a real agent and on the model."""

import pytest

from sidecar.consul.api import ConsulApi, Delete, HoldsLock, Lock, Operation, Set, Unchanged, Unlock
from sidecar.election.keys import lock
from sidecar.registry.registration import InstanceInfo
from sidecar.runtime.errors import Conflict
from tests.support.instance_lock import acquire, election_keys, open_session, register
from tests.support.instance_lock import instance as instance


async def test_a_write_can_check_the_index(consul: ConsulApi, instance: InstanceInfo) -> None:
    key = lock.prefix(instance.service) + "order"
    with pytest.raises(Conflict):
        await consul.transact(Set(key, b"1", index=3))
    first = (await consul.transact(Set(key, b"1", index=0)))[key]
    for stale in (0, first - 1):
        with pytest.raises(Conflict):
            await consul.transact(Set(key, b"2", index=stale))
    second = (await consul.transact(Set(key, b"2", index=first)))[key]
    entry = (await election_keys(consul, instance))["order"]
    assert (entry.value, entry.modify_index, entry.create_index) == (b"2", second, first)


async def test_a_missing_key_is_none(consul: ConsulApi, instance: InstanceInfo) -> None:
    key = lock.prefix(instance.service) + "order"
    await consul.transact(Set(key + "-draft", b"1"))
    assert (await consul.kv(key, consistent=True)).value is None
    await consul.transact(Set(key, b"2"))
    answer = await consul.kv(key, consistent=True)
    assert answer.known_leader
    assert answer.value == (await election_keys(consul, instance))["order"]


async def test_a_deletion_checks_the_index(consul: ConsulApi, instance: InstanceInfo) -> None:
    key = lock.prefix(instance.service) + "order"
    index = (await consul.transact(Set(key, b"1")))[key]
    with pytest.raises(Conflict):
        await consul.transact(Delete(key, index - 1))
    assert await consul.transact(Delete(key, index)) == {}
    assert await election_keys(consul, instance) == {}
    await consul.transact(Delete(key, index))  # the deletion of a missing key succeeds


async def test_a_transaction_is_atomic(consul: ConsulApi, instance: InstanceInfo) -> None:
    await register(consul, instance)
    prefix = lock.prefix(instance.service)
    first, second = [await open_session(consul, instance) for _ in range(2)]
    await acquire(consul, instance, first)
    await consul.transact(Set(prefix + "order", b"1"))
    before = await election_keys(consul, instance)
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
        assert await election_keys(consul, instance) == before


async def test_the_keys_of_a_transaction_have_the_same_index(
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
    created = {entry.create_index for entry in (await election_keys(consul, instance)).values()}
    assert created == set(done.values())


async def test_a_write_that_changes_nothing_keeps_the_index(
    consul: ConsulApi, instance: InstanceInfo
) -> None:
    key = lock.prefix(instance.service) + "pause"
    first = await consul.transact(Set(key, b"same"))
    assert await consul.transact(Set(key, b"same")) == first
    assert (await consul.transact(Set(key, b"other")))[key] > first[key]


async def test_a_deleted_key_is_not_unchanged(consul: ConsulApi, instance: InstanceInfo) -> None:
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
