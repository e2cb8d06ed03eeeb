"""Finds the stubs of a Triton on this machine in /proc, and notices when they end.

psutil could do the same, but would cost every sidecar memory.

Acts: asyncio, os, socket.
"""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from sidecar.runtime.addresses import split_address
from sidecar.runtime.threads import in_daemon_thread
from sidecar.triton.python_stubs_api import Stub

_PROC = Path("/proc")
_SERVER, _STUB = "tritonserver", "triton_python_backend_stub"
_LISTEN = "0A"
_SEARCH_EVERY = 10  # scans; a search reads all processes of the machine


class Stubs:
    """The stubs of the Triton at an address; implements `StubsApi`."""

    def __init__(self, address: str) -> None:
        self._host, self._port = split_address(address)
        self._server: int | None = None
        self._scans_until_search = 0
        self._watched: dict[int, int] = {}  # the pidfd of each stub
        self._ended = asyncio.Event()

    async def scan(self) -> tuple[Stub, ...] | None:
        """The running stubs; None if Triton's processes cannot be seen, which proves nothing."""
        self._ended.clear()
        found = await in_daemon_thread(self._scan, "processes of Triton")
        self._watch({stub.pid for stub in found or ()})
        return found

    async def ended(self) -> None:
        """Return when a stub of the last `scan` has ended; at once if one already has."""
        await self._ended.wait()

    def close(self) -> None:
        """Stop watching."""
        self._watch(set())

    def _scan(self) -> tuple[Stub, ...] | None:
        if self._server is None or _text(_PROC / str(self._server) / "comm").strip() != _SERVER:
            self._server = self._search()
        return None if self._server is None else _stubs_of(self._server)

    def _search(self) -> int | None:
        self._scans_until_search -= 1
        if self._scans_until_search > 0:
            return None
        self._scans_until_search = _SEARCH_EVERY
        return _listening(self._port) if _is_here(self._host) else None

    def _watch(self, stubs: set[int]) -> None:
        for pid in self._watched.keys() - stubs:
            self._forget(pid)
        for pid in stubs - self._watched.keys():
            with suppress(OSError):  # it has already ended, as the next scan shows
                self._watched[pid] = handle = os.pidfd_open(pid)
                asyncio.get_running_loop().add_reader(handle, self._end, pid)

    def _end(self, pid: int) -> None:
        self._forget(pid)
        self._ended.set()

    def _forget(self, pid: int) -> None:
        handle = self._watched.pop(pid)
        asyncio.get_running_loop().remove_reader(handle)
        os.close(handle)


def _is_here(host: str) -> bool:
    """Whether an address is one of this machine: one that can be bound."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return any(_may_be_bound(family, where) for family, _, _, _, where in found)


def _may_be_bound(family: int, where: tuple[Any, ...]) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(where)
    except OSError:
        return False
    return True


def _listening(port: int) -> int | None:
    """The PID of the Triton that listens on a port; None if it cannot be seen, or is ambiguous."""
    sockets = {f"socket:[{inode}]" for inode in _inodes(port)}
    servers = [
        pid
        for pid in _numbers(_PROC)
        if _text(_PROC / str(pid) / "comm").strip() == _SERVER and sockets & set(_open_files(pid))
    ]
    return servers[0] if len(servers) == 1 else None


def _inodes(port: int) -> Iterator[str]:
    """The inodes of the sockets of this network namespace that listen on a port."""
    for table in ("tcp", "tcp6"):
        for line in _text(_PROC / "net" / table).splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == _LISTEN and int(local.rpartition(":")[2], 16) == port:
                yield rest[5]


def _open_files(pid: int) -> Iterator[str]:
    folder = _PROC / str(pid) / "fd"
    for number in _numbers(folder):
        with suppress(OSError):
            yield str((folder / str(number)).readlink())


def _stubs_of(server: int) -> tuple[Stub, ...] | None:
    """The stubs that a process has started; None if the kernel does not list its children."""
    tasks, found = _PROC / str(server) / "task", []
    for task in _numbers(tasks):
        try:
            children = (tasks / str(task) / "children").read_text(encoding="ascii")
        except (FileNotFoundError, ProcessLookupError):
            if task == server:
                return None  # the kernel keeps no such list, or the server is gone
            continue  # a thread that has ended
        except OSError:
            return None
        found += [stub for child in children.split() if (stub := _stub(int(child)))]
    return tuple(found)


def _stub(pid: int) -> Stub | None:
    """A stub, from its command line; None for other processes and for zombies."""
    program, *arguments = _text(_PROC / str(pid) / "cmdline").split("\0")
    if Path(program).name != _STUB or len(arguments) < 8:
        return None
    version = Path(arguments[0]).parent
    folder = version.parent.name if version.name.isdecimal() else ""
    return Stub(pid, folder, arguments[7])


def _numbers(folder: Path) -> Iterator[int]:
    with suppress(OSError):
        yield from (int(each.name) for each in folder.iterdir() if each.name.isdecimal())


def _text(path: Path) -> str:
    """The content of a file in /proc; "" if it is gone or unreadable."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
