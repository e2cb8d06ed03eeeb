"""Lossy and slow networks between real network namespaces."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from sidecar.drill.cluster import impairment, parent
from sidecar.drill.cluster.impairment import Impairment, impaired
from sidecar.drill.cluster.network_namespaces import (
    Namespace,
    NetworkNamespaces,
    network_namespaces,
)
from sidecar.runtime.errors import Unavailable
from tests.support.soak import soak

pytestmark = [pytest.mark.contract, pytest.mark.asyncio(loop_scope="module")]

NEAR, FAR = Namespace("near", 1, ("data",)), Namespace("far", 2, ("data",))
# Sends datagrams to the other side, which answers each; prints the round trips in seconds.
_ECHO = """
import socket, sys
door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
door.bind((sys.argv[1], 7))
print("ready", flush=True)
while True:
    data, sender = door.recvfrom(100)
    print(data.decode(), flush=True)
    door.sendto(data, sender)
"""
_ASK = """
import socket, sys, time
door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
door.settimeout(float(sys.argv[3]))
for number in range(int(sys.argv[2])):
    sent = time.monotonic()
    door.sendto(str(number).encode(), (sys.argv[1], 7))
    try:
        while int(door.recv(100)) != number:
            pass
        print(time.monotonic() - sent)
    except TimeoutError:
        pass
"""


class Pair:
    """Two namespaces, and a server in the far one that notes what it gets."""

    def __init__(self, namespaces: NetworkNamespaces, echo: asyncio.subprocess.Process) -> None:
        self.namespaces, self._echo = namespaces, echo

    async def asked(self, count: int, patience: float) -> list[float]:
        """The round trips, in seconds, of those of `count` datagrams that were answered."""
        inside, arguments = self.namespaces.enter("near"), (FAR.address("data"), count, patience)
        process = await asyncio.create_subprocess_exec(
            *(*inside, "/usr/bin/env", "python3", "-c", _ASK, *map(str, arguments)),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        assert not process.returncode
        return [float(line) for line in output.split()]

    async def arrived(self, number: int) -> None:
        """Wait until the far side gets a datagram of this number."""
        assert self._echo.stdout
        while int(await self._echo.stdout.readline()) != number:
            pass

    @property
    def silent(self) -> bool:
        """Whether the far side has got nothing that was not read."""
        assert self._echo.stdout
        return not re.search(rb"\d", self._echo.stdout._buffer)  # type: ignore[attr-defined]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair() -> AsyncIterator[Pair]:
    async with network_namespaces([NEAR, FAR]) as namespaces:
        echo = await asyncio.create_subprocess_exec(
            *(*namespaces.enter("far"), "/usr/bin/env", "python3"),
            *("-c", _ECHO, FAR.address("data")),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert echo.stdout
            assert await echo.stdout.readline() == b"ready\n"
            yield Pair(namespaces, echo)
        finally:
            echo.kill()
            await echo.wait()


async def answered(pair: Pair) -> None:
    """The connection is whole, also after it was impaired; a bridge learns addresses again."""
    while not await pair.asked(1, 1.0):
        pass
    await pair.arrived(0)


async def test_a_delay_is_added_each_way(pair: Pair) -> None:
    await answered(pair)
    async with impaired(pair.namespaces, "near", "data", Impairment(delay=0.2)):
        times = await pair.asked(3, 30.0)
        assert len(times) == 3
        assert min(times) >= 0.4
    await pair.arrived(2)
    await answered(pair)


async def test_what_a_namespace_sends_arrives_while_it_hears_nothing(pair: Pair) -> None:
    await answered(pair)
    async with impaired(pair.namespaces, "near", "data", Impairment(loss_in=1.0)):
        assert await pair.asked(3, 0.2) == []
        await pair.arrived(2)
    await answered(pair)


async def test_nothing_that_a_namespace_sends_arrives(pair: Pair) -> None:
    await answered(pair)
    async with impaired(pair.namespaces, "near", "data", Impairment(loss_out=1.0)):
        assert await pair.asked(3, 0.2) == []
        assert pair.silent
    await answered(pair)


async def test_nothing_is_cut_before_the_process_forwards(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    await answered(pair)
    heard: list[float] = []
    started: Any = parent.child

    @asynccontextmanager
    async def fails(*command: Any, **given: Any) -> AsyncIterator[None]:
        async with started(*command, **given) as process:
            heard.extend(await pair.asked(2, 5.0))
            if heard:
                raise Unavailable("it did not start")
            yield process

    monkeypatch.setattr(impairment, "child", fails)
    with pytest.raises(Unavailable):
        async with impaired(pair.namespaces, "near", "data", Impairment(loss_out=1.0)):
            pass
    assert len(heard) == 2
    await pair.arrived(1)
    await answered(pair)


async def test_what_cannot_begin_is_removed(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    await answered(pair)
    with monkeypatch.context() as broken:
        broken.setattr(pair.namespaces, "enter_hub", lambda: ("/no/such/program",))
        with pytest.raises(OSError, match="program"):
            async with impaired(pair.namespaces, "near", "data", Impairment(loss_out=1.0)):
                pass
    await answered(pair)
    async with impaired(pair.namespaces, "near", "data", Impairment()):
        await answered(pair)
    await answered(pair)


@soak
async def test_a_share_of_the_packets_is_lost(pair: Pair) -> None:
    await answered(pair)
    async with impaired(pair.namespaces, "near", "data", Impairment(loss_out=0.3)):
        assert 30 < len(await pair.asked(100, 0.2)) < 95
    await pair.arrived(99)
    await answered(pair)
