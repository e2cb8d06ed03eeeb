"""The Nomad client: one request to the API of the local agent.

Acts: aiohttp, asyncio.
"""

import asyncio
import ssl

import aiohttp

from sidecar.recovery.rules import Nomad
from sidecar.runtime import credentials
from sidecar.runtime.errors import DeadlineExceeded, NotFound, Rejected, Unavailable, words
from sidecar.runtime.subprocesses import quote
from sidecar.runtime.threads import in_daemon_thread

_TABLE = "recovery.action"
_FILES = ("ca_file", "cert_file", "key_file")
_ANSWER = 4096  # bytes of an answer that are read


async def restart(task: Nomad) -> None:
    """Restart one task of an allocation in place.

    Raises:
        DeadlineExceeded: `task.timeout` has passed, even if only a file read hangs.
        Unavailable: Nomad does not answer, or answers with a server error.
        Rejected: Nomad refuses, or does not know the allocation.
        ConfigError: a file that settings name cannot be read.
    """
    reading = in_daemon_thread(lambda: (task.read_token(), _tls(task)), "nomad files")
    try:
        async with asyncio.timeout(task.timeout):
            token, tls = await reading
            status, body = await _put(task, token, tls)
    except TimeoutError:
        what = (
            "its token or certificate files were not read" if reading.cancelled() else "no answer"
        )
        raise DeadlineExceeded(f"nomad: {what} within {task.timeout:g} s") from None
    except (aiohttp.ClientError, OSError) as error:
        raise Unavailable(f"nomad: {words(error)}") from error
    _judge(status, body.decode(errors="replace"))


async def _put(task: Nomad, token: str | None, tls: ssl.SSLContext | bool) -> tuple[int, bytes]:
    """Send the request; returns the answer's status and body."""
    address, connector = _reach(task, tls)
    url = f"{address}/v1/client/allocation/{task.allocation}/restart"
    async with (
        aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(),
            headers={"X-Nomad-Token": token} if token else None,
        ) as session,
        session.put(url, json={"TaskName": task.task}, allow_redirects=False) as answer,
    ):
        return answer.status, await answer.content.read(_ANSWER)


def check(task: Nomad) -> None:
    """Find mistakes now that would otherwise show when Nomad is needed.

    Raises:
        ConfigError: a file that settings name cannot be read, even one that is not used yet.
    """
    task.read_token()
    for key in _FILES:
        path = getattr(task, key)
        used = key not in task.inherited or task.address.startswith("https:")
        if path is not None and used:
            credentials.readable(path, f"{_TABLE}.{key}")
    _tls(task)


def _reach(task: Nomad, tls: ssl.SSLContext | bool) -> tuple[str, aiohttp.BaseConnector]:
    """The base of the URL, and its connector."""
    scheme, _, rest = task.address.partition(":")
    if scheme == "unix":
        return "http://nomad", aiohttp.UnixConnector("/" + rest.lstrip("/"))
    return task.address, aiohttp.TCPConnector(ssl=tls)


def _tls(task: Nomad) -> ssl.SSLContext | bool:
    if not task.address.startswith("https:"):
        return True
    return credentials.tls(_TABLE, task.ca_file, task.cert_file, task.key_file)


def _judge(status: int, body: str) -> None:
    if status < 300:
        return
    kind = NotFound if status == 404 else Rejected if status < 500 else Unavailable
    raise kind(f"nomad: {status}: {quote(body)}")
