"""What can be done about an ill Triton. Whatever fails ends in our own errors."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from sidecar.addresses import split_address
from sidecar.errors import DeadlineExceeded, Rejected
from sidecar.program import ending, run
from sidecar.recovery import nomad
from sidecar.recovery.notice import recovering
from sidecar.settings.recovery import (
    AnyAction,
    CommandAction,
    ContainerAction,
    NomadAction,
    SignalAction,
    SystemdAction,
)
from sidecar.threads import in_daemon_thread

if TYPE_CHECKING:
    import psutil


@dataclass(frozen=True, slots=True)
class Action:
    """One action: what it does, for people, and how. It raises a `SidecarError` if it fails."""

    name: str
    perform: Callable[[], Awaitable[None]]


def build(settings: AnyAction, triton: str) -> Action:
    """The action that the settings describe; `triton` is the host:port of its gRPC service.

    Raises:
        ConfigError: a file that the settings name cannot be read.
    """
    match settings:
        case SystemdAction(unit=unit):
            return _action(f"systemd: restart {unit}", partial(_systemd, settings))
        case ContainerAction(kind=kind, container=container):
            return _action(f"{kind}: restart {container}", partial(_container, settings))
        case NomadAction(task=task, allocation=allocation):
            nomad.check(settings)
            return _action(
                f"nomad: restart {task} of {allocation}", partial(nomad.restart, settings)
            )
        case CommandAction(command=command):
            return _action(f"command: {command[0]}", partial(run, command, settings.timeout))
        case SignalAction(signal=name, pid_file=pid_file):
            target = f"the process in {pid_file}" if pid_file else f"the listener on {triton}"
            return _action(f"signal: {name} to {target}", partial(_signal, settings, triton))


def _action(name: str, perform: Callable[[], Awaitable[None]]) -> Action:
    async def noticed() -> None:
        with recovering():
            await perform()

    return Action(name, noticed)


async def _systemd(settings: SystemdAction) -> None:
    systemctl = ("systemctl", "--no-ask-password", *(("--user",) if settings.user else ()))
    clock = asyncio.get_running_loop().time
    deadline = clock() + settings.timeout
    if settings.kill:
        # Nothing to kill is no reason not to restart; what stands in the way of both is told then.
        with suppress(Rejected):
            await run((*systemctl, "kill", "--signal=SIGKILL", settings.unit), settings.timeout)
    await run((*systemctl, "restart", settings.unit), deadline - clock())


async def _container(settings: ContainerAction) -> None:
    hurry = ("-t", "0") if settings.kill else ()
    await run((settings.kind, "restart", *hurry, settings.container), settings.timeout)


async def _signal(settings: SignalAction, triton: str) -> None:
    clock = asyncio.get_running_loop().time
    deadline = clock() + settings.timeout
    finding = in_daemon_thread(partial(_find, settings, triton), "find the process")
    try:
        # Only this times out when it hangs: a signal must not be sent later.
        found = await asyncio.wait_for(finding, settings.timeout)
    except TimeoutError:
        raise DeadlineExceeded(
            f"signal: the process was not found within {settings.timeout:g} s"
        ) from None
    handle = await in_daemon_thread(partial(_send, found, settings), "signal")
    try:
        await ending(handle, deadline - clock())
    except TimeoutError:
        raise DeadlineExceeded(
            f"signal: the process did not end within {settings.timeout:g} s of SIG{settings.signal}"
        ) from None
    finally:
        os.close(handle)


def _find(settings: SignalAction, triton: str) -> "psutil.Process":
    from sidecar.recovery import processes

    if settings.pid_file:
        return processes.recorded(settings.pid_file)
    return processes.listening(*split_address(triton))


def _send(found: "psutil.Process", settings: SignalAction) -> int:
    from sidecar.recovery import processes

    return processes.send(found, signal.Signals[f"SIG{settings.signal}"])
