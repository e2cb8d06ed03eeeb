"""A token file that is rotated, hangs, or cannot be read."""

import asyncio
import threading
import time
from pathlib import Path

import pytest

from sidecar.consul.token import Token
from sidecar.runtime.errors import ConfigError

PATIENCE = 60.0


async def test_a_rotated_token_is_used_and_a_hung_file_blocks_no_request(
    tmp_path: Path,
) -> None:
    file = tmp_path / "token"
    file.write_text("one")
    hang, go = threading.Event(), threading.Event()
    go.set()

    begun: list[float] = []

    def read() -> str:
        begun.append(time.monotonic())
        if hang.is_set():
            assert go.wait(PATIENCE)
        return file.read_text()

    failures: list[ConfigError] = []
    token = Token(read, failures.append)
    assert await token.newest() == "one"
    file.write_text("two")
    while await token.newest() != "two":
        assert len(begun) < 100
    failures.clear()
    hang.set()
    go.clear()
    file.write_text("three")
    before = len(begun)
    assert [await token.newest() for _ in range(2)] == ["two", "two"]
    assert [str(each) for each in failures] == ["consul.token_file: reading it takes long"] * 2
    async with asyncio.timeout(PATIENCE):
        while len(begun) == before:  # the thread may start late
            await asyncio.sleep(0.01)
    assert len(begun) == before + 1  # only one thread waits for the file
    go.set()
    while await token.newest() != "three":
        assert len(begun) < 100


async def test_no_request_is_sent_without_the_configured_token(tmp_path: Path) -> None:
    readable: list[bool] = []
    failures: list[ConfigError] = []

    def read() -> str:
        if not readable:
            raise ConfigError("consul.token_file: gone")
        return "one"

    token = Token(read, failures.append)
    with pytest.raises(ConfigError, match="gone"):
        await token.newest()
    readable.append(True)
    assert await token.newest() == "one"
    readable.clear()
    assert await token.newest() == "one"
    assert len(failures) == 1
