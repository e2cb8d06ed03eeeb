"""Helpers of mesh tests around the mesh: waiting, programs and processes, HTTP.

Everything that waits polls a condition, with a limit far above what a busy machine needs.
"""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from sidecar.drill.stage import waiting
from sidecar.drill.stage.http import request
from sidecar.drill.stage.waiting import PATIENCE
from sidecar.local import control
from sidecar.local.processes import state_file
from sidecar.local.processes.identity import identify, send
from sidecar.runtime.errors import SidecarError, Unavailable

ROOT = Path(__file__).parents[3]
_PAUSE = 0.05


async def until(condition: Callable[[], object], what: str, *, pause: float = _PAUSE) -> None:
    """Wait for a condition as a drill does; one that is not met fails the test."""
    try:
        await waiting.until(condition, what, pause=pause)
    except Unavailable as error:
        raise AssertionError(str(error)) from None


# --- processes --------------------------------------------------------------------------------


def gone(pid: int) -> bool:
    """Whether no process has this pid, or only a dead one."""
    return identify(pid) is None


def sidecar(*arguments: str, check: bool = False) -> subprocess.CompletedProcess[str]:
    """Run the command `triton-sidecar` to its end; `check` says that it has to succeed."""
    command = [sys.executable, "-m", "sidecar", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def ended_at_once(folder: Path) -> None:
    """Kill a mesh that is no longer needed; another test covers the graceful stop."""
    found = state_file.load(folder)
    if found is not None:
        send(found.supervisor, signal.SIGKILL)
    control.down(folder)


# --- HTTP -------------------------------------------------------------------------------------


async def http(
    method: str, url: str, body: object = None, headers: dict[str, str] | None = None
) -> str:
    """The body of a successful answer; anything else fails the test."""
    try:
        return await request(method, url, body, headers)
    except SidecarError as error:
        raise AssertionError(str(error)) from None


async def metric(address: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels, at host:port."""
    return metric_in(await http("GET", f"http://{address}/metrics"), name, **labels)


def metric_in(text: str, name: str, **labels: str) -> float:
    """The same in what was answered."""
    lines = text.splitlines()
    named = [line for line in lines if line.startswith((f"{name}{{", f"{name} "))]
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    chosen = [line for line in named if all(label in line for label in wanted)]
    return sum(float(line.rpartition(" ")[2]) for line in chosen)
