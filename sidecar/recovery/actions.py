"""The restarts of an unhealthy Triton. Every failure is raised as a `SidecarError`.

Acts: asyncio, os, signal.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from sidecar.recovery import nomad
from sidecar.recovery.recovering_marker import recovering
from sidecar.recovery.rules import Command, Container, Nomad, Restart, Signal, Systemd
from sidecar.runtime.addresses import split_address
from sidecar.runtime.errors import DeadlineExceeded, Rejected
from sidecar.runtime.subprocesses import ending, run
from sidecar.runtime.threads import in_daemon_thread

if TYPE_CHECKING:
    import psutil


@dataclass(frozen=True, slots=True)
class Action:
    """One action: its name for people, and its function, which raises `SidecarError` on failure."""

    name: str
    perform: Callable[[], Awaitable[None]]


def build(restart: Restart, triton: str) -> Action:
    """Build the action for a restart; `triton` is the host:port of its gRPC service.

    Raises:
        ConfigError: a file that it names cannot be read.
    """
    match restart:
        case Systemd(unit=unit):
            return _action(f"systemd: restart {unit}", partial(_systemd, restart))
        case Container(kind=kind, container=container):
            return _action(f"{kind}: restart {container}", partial(_container, restart))
        case Nomad(task=task, allocation=allocation):
            nomad.check(restart)
            return _action(
                f"nomad: restart {task} of {allocation}", partial(nomad.restart, restart)
            )
        case Command(command=command):
            return _action(f"command: {command[0]}", partial(run, command, restart.timeout))
        case Signal(signal=name, pid_file=pid_file):
            target = f"the process in {pid_file}" if pid_file else f"the listener on {triton}"
            return _action(f"signal: {name} to {target}", partial(_signal, restart, triton))


def _action(name: str, perform: Callable[[], Awaitable[None]]) -> Action:
    async def noticed() -> None:
        with recovering():
            await perform()

    return Action(name, noticed)


async def _systemd(restart: Systemd) -> None:
    systemctl = ("systemctl", "--no-ask-password", *(("--user",) if restart.user else ()))
    clock = asyncio.get_running_loop().time
    deadline = clock() + restart.timeout
    if restart.kill:
        # Restart even if there is nothing to kill; the restart reports what prevents both.
        with suppress(Rejected):
            await run((*systemctl, "kill", "--signal=SIGKILL", restart.unit), restart.timeout)
    await run((*systemctl, "restart", restart.unit), deadline - clock())


async def _container(restart: Container) -> None:
    hurry = ("-t", "0") if restart.kill else ()
    await run((restart.kind, "restart", *hurry, restart.container), restart.timeout)


async def _signal(restart: Signal, triton: str) -> None:
    clock = asyncio.get_running_loop().time
    deadline = clock() + restart.timeout
    finding = in_daemon_thread(partial(_find, restart, triton), "find the process")
    try:
        # The timeout covers only the search: a signal must not be sent later.
        found = await asyncio.wait_for(finding, restart.timeout)
    except TimeoutError:
        raise DeadlineExceeded(
            f"signal: the process was not found within {restart.timeout:g} s"
        ) from None
    handle = await in_daemon_thread(partial(_send, found, restart), "signal")
    try:
        await ending(handle, deadline - clock())
    except TimeoutError:
        raise DeadlineExceeded(
            f"signal: the process did not end within {restart.timeout:g} s of SIG{restart.signal}"
        ) from None
    finally:
        os.close(handle)


def _find(restart: Signal, triton: str) -> "psutil.Process":
    from sidecar.recovery import triton_processes

    if restart.pid_file:
        return triton_processes.recorded(restart.pid_file)
    return triton_processes.listening(*split_address(triton))


def _send(found: "psutil.Process", restart: Signal) -> int:
    from sidecar.recovery import triton_processes

    return triton_processes.send(found, signal.Signals[f"SIG{restart.signal}"])
