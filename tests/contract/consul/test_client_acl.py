"""What the door makes of tokens that may not do all, on a real agent that denies by default."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from sidecar.consul.api import ConsulApi, Set, Unchanged
from sidecar.runtime.errors import NotFound, Rejected, Unavailable
from tests.support.consul_model import Generation
from tests.support.guarded_consul import Guarded

SERVICE, ID, CHECK, KEY = "triton", "triton-0", "triton-0:verdict", "secret"
BODY = {"Name": SERVICE, "ID": ID, "Port": 1, "Checks": [{"CheckID": CHECK, "Name": "verdict"}]}
BODY["Checks"][0]["TTL"] = "1h"  # type: ignore[index]


@pytest.fixture
async def doors(guarded: Guarded) -> AsyncIterator[Callable[[str], Awaitable[ConsulApi]]]:
    """Opens a door with a token of the given rules, while an instance and a key are there."""
    async with AsyncExitStack() as stack:

        async def door(rules: str) -> ConsulApi:
            return await stack.enter_async_context(guarded.door(await guarded.token(rules)))

        management = await stack.enter_async_context(guarded.door(guarded.management))
        await management.register_service(BODY)
        await management.update_check(CHECK, "passing", "fine")
        await management.transact(Set(KEY, b"x"))
        while not (await management.health_service(SERVICE)).value:
            await asyncio.sleep(0.05)
        yield door


Doors = Callable[[str], Awaitable[ConsulApi]]
MAY_READ = f'service "{SERVICE}" {{ policy = "read" }}\nnode_prefix "" {{ policy = "read" }}\n'


async def test_a_token_with_read_rights_sees_the_instance(doors: Doors) -> None:
    door = await doors(MAY_READ)
    for index in (0, 1):
        answer = await door.health_service(SERVICE, index=index, wait=5)
        assert [entry.id for entry in answer.value] == [ID]


@pytest.mark.parametrize("rules", ["", f'service "{SERVICE}" {{ policy = "read" }}'])
async def test_later_agents_mark_results_filtered_by_acls(
    doors: Doors, guarded: Guarded, rules: str
) -> None:
    """Since 1.11, and not of what they stream."""
    door = await doors(rules)
    plain = await door.health_service(SERVICE)
    assert (plain.value, plain.filtered) == ((), guarded.agent.version >= (1, 11))
    watched = await door.health_service(SERVICE, index=1, wait=0.5)
    streams = guarded.agent.generation is Generation.STREAMING
    assert (watched.value, watched.filtered) == ((), plain.filtered and not streams)
    assert not await door.sees_all(SERVICE)
    wide = await doors(MAY_READ)
    whole = await wide.health_service(SERVICE)
    assert (len(whole.value), whole.filtered) == (1, False)
    assert await wide.sees_all(SERVICE)


async def test_an_unknown_token_never_gets_an_empty_list(guarded: Guarded) -> None:
    async with guarded.door(str(uuid.uuid4())) as door:
        with pytest.raises(Rejected, match="ACL not found"):
            await door.health_service(SERVICE)
        streams = guarded.agent.generation is Generation.STREAMING
        with pytest.raises(Unavailable if streams else Rejected):
            await door.health_service(SERVICE, index=1, wait=0.2)


async def test_a_list_omits_a_key_that_a_read_of_it_rejects(doors: Doors) -> None:
    door = await doors("")
    assert (await door.kv_prefix(KEY)).value == ()
    with pytest.raises(Rejected, match="denied"):
        await door.kv(KEY)


async def test_operations_without_rights_are_rejected(doors: Doors) -> None:
    door = await doors(MAY_READ)
    for refused in (
        door.register_service(BODY),
        door.update_check(CHECK, "passing", "fine"),
        door.maintain_service(ID, "stopping"),
        door.deregister_service(ID),
        door.session_create("test", ttl=10, lock_delay=0, service_checks=[CHECK]),
        door.transact(Set(KEY, b"y")),
        door.transact(Unchanged(KEY, 1)),
    ):
        with pytest.raises(Rejected, match="ermission denied") as caught:
            await refused
        assert type(caught.value) is Rejected


async def test_an_unregistered_service_is_not_found_with_acls_either(
    doors: Doors,
) -> None:
    door = await doors('service_prefix "" { policy = "write" }')
    with pytest.raises(NotFound):
        await door.update_check("nobody:verdict", "passing", "")
    with pytest.raises(NotFound):
        await door.maintain_service("nobody", "stopping")
    await door.deregister_service("nobody")
