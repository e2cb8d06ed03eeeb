"""A guard for pure tests, which may not start processes, use sockets, write files or sleep.

`watched` collects the violations of a test. Python's audit events show them, whichever library
is used. Sleeping and C code, such as gRPC, raise no events: those functions are replaced.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from grpc import _server
from grpc.aio import _server as _aio_server

_ACTIONS = {
    "socket.bind": "binds a socket",
    "socket.connect": "connects to",
    "socket.sendto": "sends to",
    "socket.getaddrinfo": "resolves",
    "socket.gethostbyname": "resolves",
    "subprocess.Popen": "starts",
    "os.exec": "starts",
    "os.posix_spawn": "starts",
    "os.spawn": "starts",
    "os.system": "starts",
    "os.fork": "forks",
    "os.forkpty": "forks",
    "os.kill": "sends a signal to",
}
_CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# Files that Python and Hypothesis write for themselves.
_CACHES = ("__pycache__", ".hypothesis")


class _Watch:
    """The violations of the running test; None while no test is watched."""

    found: list[str] | None = None
    files = False


def _audit(event: str, details: tuple[Any, ...]) -> None:
    found = _Watch.found
    if found is None:
        return
    if event in _ACTIONS:
        found.append(f"{_ACTIONS[event]} {details[1:] or details}")
    elif not _Watch.files and (event in _CHANGES or (event == "open" and _writes(details))):
        path = os.fsdecode(details[0]) if not isinstance(details[0], int) else ""
        if path not in ("", os.devnull) and not any(cache in path for cache in _CACHES):
            found.append(f"writes {path}")


def _writes(details: tuple[Any, ...]) -> bool:
    return isinstance(details[2], int) and bool(details[2] & _WRITING)


sys.addaudithook(_audit)


@contextmanager
def watched(patch: pytest.MonkeyPatch, *, files: bool) -> Iterator[list[str]]:
    """Collect a test's I/O; with `files`, it may write files.

    It may then also sleep, because threads access files, and a virtual clock cannot wait for them.
    """
    found: list[str] = []
    if not files:
        patch.setattr(time, "sleep", _noted(found, time.sleep))
        patch.setattr(asyncio, "sleep", _noted(found, asyncio.sleep))
    for server in (_server._Server, _aio_server.Server):
        for listens in ("add_insecure_port", "add_secure_port"):
            patch.setattr(server, listens, _noted(found, getattr(server, listens)))
    _Watch.found, _Watch.files = found, files
    try:
        yield found
    finally:
        _Watch.found = None


def _noted(found: list[str], function: Callable[..., Any]) -> Callable[..., Any]:
    def noting(*details: Any, **more: Any) -> Any:
        if details != (0,):  # asyncio.sleep(0) only yields to the event loop
            found.append(f"calls {function.__qualname__}{details}")
        return function(*details, **more)

    return noting
