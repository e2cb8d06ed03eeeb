"""Sessions and locks of the Consul client, on a real agent and on the model."""

import pytest

from sidecar.consul.api import ConsulApi, HoldsLock, Set
from sidecar.election.keys import lock
from sidecar.registry.registration import InstanceInfo
from sidecar.runtime.errors import Conflict, Rejected, SessionLost
from tests.support.instance_lock import (
    NO_SESSION,
    acquire,
    election_keys,
    lock_holder,
    open_session,
    register,
    release,
)
from tests.support.instance_lock import instance as instance


async def test_a_session_on_a_critical_or_missing_check_is_rejected(
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
    assert await acquire(consul, instance, first) == epoch  # no new tenure
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
        assert (await election_keys(consul, instance))["lock"].value == b"released"
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
    assert await lock_holder(consul, instance) is None
    with pytest.raises(SessionLost):
        await consul.session_renew(session)
    with pytest.raises(SessionLost):
        await acquire(consul, instance, session)


@pytest.mark.parametrize("released", [True, False])
async def test_the_lock_delay_applies_after_a_destroyed_session_and_not_after_a_release(
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
    assert await lock_holder(consul, instance) == first
    await consul.session_destroy(NO_SESSION)


async def test_a_free_lock_cannot_be_released(consul: ConsulApi, instance: InstanceInfo) -> None:
    await register(consul, instance)
    session = await open_session(consul, instance)
    with pytest.raises(Conflict):
        await release(consul, instance, session)
    await acquire(consul, instance, session)
    await release(consul, instance, session)
    with pytest.raises(Conflict):
        await release(consul, instance, session)


async def test_only_the_locks_holder_may_write(consul: ConsulApi, instance: InstanceInfo) -> None:
    await register(consul, instance)
    key = lock.lock_key(instance.service)
    first, second = [await open_session(consul, instance) for _ in range(2)]
    await acquire(consul, instance, first)
    await consul.transact(HoldsLock(key, first), Set(key + "-note", b"mine"))
    with pytest.raises(Conflict):
        await consul.transact(HoldsLock(key, second), Set(key + "-note", b"theirs"))
    assert (await election_keys(consul, instance))["lock-note"].value == b"mine"


async def test_a_plain_write_keeps_the_lock_and_resets_its_count(
    consul: ConsulApi, instance: InstanceInfo
) -> None:
    """So Consul's LockIndex is not an epoch."""
    await register(consul, instance)
    session = await open_session(consul, instance)
    await acquire(consul, instance, session)
    assert (await election_keys(consul, instance))["lock"].lock_index == 1
    await consul.transact(Set(lock.lock_key(instance.service), b"edited"))
    entry = (await election_keys(consul, instance))["lock"]
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
    with pytest.raises(Conflict):  # Consul compares only the key's session
        await release(consul, instance, session)
