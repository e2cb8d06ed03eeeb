"""Tokens with limited rights, on a real agent whose ACLs deny by default."""

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
async def connect(guarded: Guarded) -> AsyncIterator[Callable[[str], Awaitable[ConsulApi]]]:
    """Opens a client with a token of the given rules, while an instance and a key exist."""
    async with AsyncExitStack() as stack:

        async def open_client(rules: str) -> ConsulApi:
            return await stack.enter_async_context(guarded.client(await guarded.token(rules)))

        management = await stack.enter_async_context(guarded.client(guarded.management))
        await management.register_service(BODY)
        await management.update_check(CHECK, "passing", "fine")
        await management.transact(Set(KEY, b"x"))
        while not (await management.health_service(SERVICE)).value:
            await asyncio.sleep(0.05)
        yield open_client


Connect = Callable[[str], Awaitable[ConsulApi]]
MAY_READ = f'service "{SERVICE}" {{ policy = "read" }}\nnode_prefix "" {{ policy = "read" }}\n'


async def test_a_token_with_read_rights_sees_the_instance(connect: Connect) -> None:
    consul = await connect(MAY_READ)
    for index in (0, 1):
        answer = await consul.health_service(SERVICE, index=index, wait=5)
        assert [entry.id for entry in answer.value] == [ID]


@pytest.mark.parametrize("rules", ["", f'service "{SERVICE}" {{ policy = "read" }}'])
async def test_later_agents_mark_results_filtered_by_acls(
    connect: Connect, guarded: Guarded, rules: str
) -> None:
    """From 1.11 on, and not in streamed answers."""
    consul = await connect(rules)
    plain = await consul.health_service(SERVICE)
    assert (plain.value, plain.filtered) == ((), guarded.agent.version >= (1, 11))
    watched = await consul.health_service(SERVICE, index=1, wait=0.5)
    streams = guarded.agent.generation is Generation.STREAMING
    assert (watched.value, watched.filtered) == ((), plain.filtered and not streams)
    assert not await consul.sees_all(SERVICE)
    wide = await connect(MAY_READ)
    whole = await wide.health_service(SERVICE)
    assert (len(whole.value), whole.filtered) == (1, False)
    assert await wide.sees_all(SERVICE)


async def test_an_unknown_token_never_gets_an_empty_list(guarded: Guarded) -> None:
    async with guarded.client(str(uuid.uuid4())) as consul:
        with pytest.raises(Rejected, match="ACL not found"):
            await consul.health_service(SERVICE)
        streams = guarded.agent.generation is Generation.STREAMING
        with pytest.raises(Unavailable if streams else Rejected):
            await consul.health_service(SERVICE, index=1, wait=0.2)


async def test_a_list_omits_a_key_that_a_read_of_it_rejects(connect: Connect) -> None:
    consul = await connect("")
    assert (await consul.kv_prefix(KEY)).value == ()
    with pytest.raises(Rejected, match="denied"):
        await consul.kv(KEY)


async def test_operations_without_rights_are_rejected(connect: Connect) -> None:
    consul = await connect(MAY_READ)
    for refused in (
        consul.register_service(BODY),
        consul.update_check(CHECK, "passing", "fine"),
        consul.maintain_service(ID, "stopping"),
        consul.deregister_service(ID),
        consul.session_create("test", ttl=10, lock_delay=0, service_checks=[CHECK]),
        consul.transact(Set(KEY, b"y")),
        consul.transact(Unchanged(KEY, 1)),
    ):
        with pytest.raises(Rejected, match="ermission denied") as caught:
            await refused
        assert type(caught.value) is Rejected


async def test_an_unregistered_service_is_not_found_with_acls_as_well(
    connect: Connect,
) -> None:
    consul = await connect('service_prefix "" { policy = "write" }')
    with pytest.raises(NotFound):
        await consul.update_check("nobody:verdict", "passing", "")
    with pytest.raises(NotFound):
        await consul.maintain_service("nobody", "stopping")
    await consul.deregister_service("nobody")
