"""Errors of others are told in words."""

import socket

import aiohttp
import pytest

from sidecar.errors import Unavailable, words
from sidecar.local import probe


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (TimeoutError(), "no answer in time"),
        (TimeoutError("it took too long to search"), "it took too long to search"),
        (aiohttp.ServerTimeoutError(), "no answer in time"),
        (aiohttp.ClientPayloadError(), "client payload error"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
        (RecursionError(), "recursion error"),
    ],
)
def test_no_error_is_told_by_its_name_in_python(error: Exception, told: str) -> None:
    assert words(error) == told


async def test_a_part_that_does_not_answer_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_TIMEOUT", 0.05)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Unavailable) as raised:
            await probe.get(url)
    assert str(raised.value) == f"{url}: no answer in time"
