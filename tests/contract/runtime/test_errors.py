"""Connection errors are reported in plain words, each from a server that causes it."""

import asyncio
import re
import socket
import ssl
from pathlib import Path

import aiohttp
import pytest

from sidecar.consul.access import ConsulAccess
from sidecar.consul.client import Consul
from sidecar.local.processes import part_probe
from sidecar.runtime.errors import Unavailable, words

TLS = Path(__file__).parents[3] / "tests" / "support" / "tls"
PYTHONS = re.compile(r"\[|\]|'|_ssl|Error\b|message=|ssl:|Connect call")


async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x00\x01 hello\r\n\r\n")
    writer.close()


async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
    writer.close()


async def message_of(url: str) -> str:
    """The message for a request that fails."""
    with pytest.raises((aiohttp.ClientError, OSError)) as caught:
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            await answer.read()
    return words(caught.value)


async def test_errors_of_aiohttp_are_reported_in_plain_words() -> None:
    server = await asyncio.start_server(garbage, "127.0.0.1", 0)
    cutting = await asyncio.start_server(cut, "127.0.0.1", 0)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "a.pem", TLS / "a.key")
    secret = await asyncio.start_server(garbage, "127.0.0.1", 0, ssl=context)
    ports = [each.sockets[0].getsockname()[1] for each in (server, cutting, secret)]
    said = [
        await message_of("http://127.0.0.1:1"),
        await message_of(f"http://127.0.0.1:{ports[0]}"),
        await message_of(f"https://127.0.0.1:{ports[0]}"),
        await message_of(f"http://127.0.0.1:{ports[1]}"),
        await message_of(f"https://127.0.0.1:{ports[2]}"),
    ]
    assert [text for text in said if PYTHONS.search(text)] == []
    assert said[0] == "Connection refused"
    assert said[4] == "certificate verify failed: self-signed certificate"
    for each in (server, cutting, secret):
        each.close()


async def test_an_unreachable_consul_is_reported_with_its_address() -> None:
    async with Consul(ConsulAccess(address="127.0.0.1:1")) as consul:
        with pytest.raises(Unavailable) as caught:
            await consul.kv_prefix("x")
    assert str(caught.value).endswith(": 127.0.0.1:1: Connection refused")


async def test_a_part_that_does_not_answer_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_probe, "_TIMEOUT", 0.05)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Unavailable) as raised:
            await part_probe.get(url)
    assert str(raised.value) == f"{url}: no answer in time"
