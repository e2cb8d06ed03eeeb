"""Finds the processes of a Triton and its Python stubs, verifies them, and signals them.

Few sidecars use this, and psutil costs memory, so this module is imported only when needed.

Acts: os, signal.
"""

import ipaddress
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from sidecar.runtime.errors import Rejected, words

_WILDCARDS = frozenset({"0.0.0.0", "::"})
# Seconds by which a process may seem younger than its own pid file: the kernel's resolution is a
# tick, the file system's a second at worst.
_YOUNGER = 2.0


class Listener(NamedTuple):
    """A listening socket; `pid` is None if this user may not see it."""

    host: str
    port: int
    pid: int | None


def choose(listeners: Iterable[Listener], host: str, port: int) -> int:
    """The pid that answers on host and port: an exact address outranks a wildcard.

    Raises:
        Rejected: there is none or more than one, or this user may not see which.
    """
    there = [each for each in listeners if each.port == port]
    named = {host, "127.0.0.1", "::1"} if host == "localhost" else {host}
    fitting = [each for each in there if each.host in named] or [
        each for each in there if each.host in _WILDCARDS
    ]
    pids = {each.pid for each in fitting}
    if not pids:
        raise Rejected(f"nothing listens on {host}:{port}")
    if None in pids:
        raise Rejected(f"this user may not see which process listens on {host}:{port}")
    if len(pids) > 1:
        raise Rejected(f"several processes listen on {host}:{port}: {sorted(pids, key=str)}")
    return next(pid for pid in pids if pid is not None)


def listening(host: str, port: int) -> psutil.Process:
    """The process that listens on host and port.

    Raises:
        Rejected: as for `choose`.
    """
    with _mapped(f"{host}:{port}"):
        listeners = (
            Listener(_plain(each.laddr.ip), each.laddr.port, each.pid)
            for each in psutil.net_connections("tcp")
            if each.laddr and each.status == psutil.CONN_LISTEN
        )
        return psutil.Process(choose(listeners, host, port))


def family(host: str, port: int) -> frozenset[int] | None:
    """The pids of the listener on host and port and of all its descendants; None if unknown."""
    try:
        leader = listening(host, port)
        with _mapped(f"process {leader.pid}"):
            return frozenset({leader.pid, *(child.pid for child in leader.children(True))})
    except Rejected:
        return None


def _plain(address: str) -> str:
    """An IPv4-mapped IPv6 address as IPv4: gRPC opens such sockets."""
    mapped = getattr(ipaddress.ip_address(address), "ipv4_mapped", None)
    return str(mapped or address)


def recorded(path: Path) -> psutil.Process:
    """The process whose pid is in a file.

    Raises:
        Rejected: the file cannot be read or holds no pid, or the process is gone, or a newer
            process has reused the pid.
    """
    try:
        text, written = path.read_text(encoding="ascii"), path.stat().st_mtime
    except UnicodeDecodeError:
        raise Rejected(f"{path}: expected a process id, found other bytes") from None
    except OSError as error:
        raise Rejected(f"{path}: {words(error)}") from error
    if not text.strip().isdecimal():
        raise Rejected(f"{path}: expected a process id, found {text[:40]!r}")
    with _mapped(str(path)):
        process = psutil.Process(int(text))
        if process.create_time() > written + _YOUNGER:
            raise Rejected(f"{path}: process {process.pid} started after the file was written")
        return process


def send(process: psutil.Process, number: signal.Signals) -> int:
    """Signal a process; SIGKILL also goes to all its descendants.

    Returns a pidfd of the process, which the caller must close.

    Raises:
        Rejected: it is the sidecar or one of its ancestors, or may not be signalled.
    """
    with _mapped(f"process {process.pid}"), ExitStack() as undo:
        if process.pid in untouchable():
            raise Rejected(f"process {process.pid}: the sidecar itself depends on it")
        handle = os.pidfd_open(process.pid)
        undo.callback(os.close, handle)
        if number is signal.SIGKILL:
            _kill_all(process)
        else:
            process.send_signal(number)  # psutil verifies that the pid was not reused
            process.send_signal(signal.SIGCONT)  # a stopped process would not get the signal
        undo.pop_all()
    return handle


def _kill_all(process: psutil.Process) -> None:
    """Kill the process first, so that it starts no other; then its group and other descendants."""
    started = process.children(recursive=True)
    leads = os.getpgid(process.pid) == process.pid
    if leads and process.pid != os.getpgrp():
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    for child in started:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue


def untouchable() -> set[int]:
    """The pids of the sidecar, its ancestors and init."""
    return {1, os.getpid(), *(parent.pid for parent in psutil.Process().parents())}


@contextmanager
def _mapped(what: str) -> Iterator[None]:
    """Translate the errors of psutil and the kernel."""
    try:
        yield
    except (psutil.NoSuchProcess, ProcessLookupError):
        raise Rejected(f"{what}: the process is gone") from None
    except (psutil.AccessDenied, PermissionError):
        raise Rejected(f"{what}: this user may not signal or inspect the process") from None
    except (psutil.Error, OSError) as error:
        raise Rejected(f"{what}: {words(error)}") from error
