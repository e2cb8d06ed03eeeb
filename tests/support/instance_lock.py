"""An instance of its own service, and operations on its session and its lock."""

import itertools

import pytest

from sidecar.consul.api import ConsulApi, KVEntry, Lock, Set, Unlock
from sidecar.election.keys import lock
from sidecar.election.keys.lock import Claim
from sidecar.registry.registration import InstanceInfo, InstanceMeta, registration

_names = itertools.count()
NO_SESSION = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def instance() -> InstanceInfo:
    """An instance; each test has its own service, because they share an agent."""
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


async def election_keys(consul: ConsulApi, instance: InstanceInfo) -> dict[str, KVEntry]:
    """The election's keys, by the last part of their names."""
    prefix = lock.prefix(instance.service)
    entries = (await consul.kv_prefix(prefix)).value
    return {entry.key.removeprefix(prefix): entry for entry in entries}


async def lock_holder(consul: ConsulApi, instance: InstanceInfo) -> str | None:
    answer = await consul.kv_prefix(lock.prefix(instance.service))
    return lock.read(instance.service, answer.value, answer.index).session
