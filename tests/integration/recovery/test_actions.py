"""Recovery's actions on real processes; systemctl, docker and Nomad are stand-ins."""

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from aiohttp import web
from pydantic import SecretStr

from sidecar.recovery import triton_processes
from sidecar.recovery.actions import build
from sidecar.recovery.rules import Command, Container, Nomad, Restart, Signal, Systemd
from sidecar.runtime.addresses import split_address
from sidecar.runtime.errors import (
    ConfigError,
    DeadlineExceeded,
    NotFound,
    Rejected,
    SidecarError,
    Unavailable,
)
from sidecar.runtime.subprocesses import run
from sidecar.settings.tables.recovery import NomadAction, SignalAction

pytestmark = pytest.mark.integration

TRITON = "127.0.0.1:8001"
ALLOCATION = "5fc98185-17ff-26bc-a802-0c74fa471c99"
# A leader and what it has started: the one in its group, the other in a session of its own.
FAMILY = """
sleep 300 & echo $! > stub.new; mv stub.new stub
setsid sleep 300 & echo $! > worker.new; mv worker.new worker
wait
"""
LISTENER = """
import socket, subprocess, sys
family, six = (socket.AF_INET6, True) if ":" in sys.argv[1] else (socket.AF_INET, False)
listener = socket.create_server((sys.argv[1], 0), family=family, dualstack_ipv6=six)
child = subprocess.Popen(["sleep", "300"])
open("port.new", "w").write(f"{listener.getsockname()[1]} {child.pid}\\n")
import os
os.rename("port.new", "port")
child.wait()
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is alone on PATH but for the system's; what its programs are told is in log."""
    for name in ("systemctl", "docker", "podman"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/log\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path


class Children:
    """Children of the test, each the leader of a group; all that is left of them ends with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[subprocess.Popen[bytes]] = []
        self.others: list[int] = []

    def start(self, *argv: str) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(argv, cwd=self._folder, start_new_session=True)
        self._started.append(child)
        return child

    async def told(self, name: str) -> str:
        """What a file says that somebody writes, who first makes an empty one."""
        path = self._folder / name
        async with asyncio.timeout(60):
            while not (path.exists() and path.read_text().endswith("\n")):
                await asyncio.sleep(0.01)
        return path.read_text().strip()

    async def started(self, name: str) -> int:
        self.others.append(int(await self.told(name)))
        return self.others[-1]

    def end(self) -> None:
        for child in self._started:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        for pid in self.others:
            if running(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    found = Children(tmp_path)
    yield found
    found.end()


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def gone(*pids: int) -> None:
    async with asyncio.timeout(60):
        while any(running(pid) for pid in pids):
            await asyncio.sleep(0.01)


async def perform(action: Restart, triton: str = TRITON) -> None:
    await build(action, triton).perform()


@pytest.mark.parametrize(
    ("action", "told"),
    [
        (Systemd(unit="t@0"), ["systemctl --no-ask-password restart t@0"]),
        (Systemd(unit="t", user=True),
         ["systemctl --no-ask-password --user restart t"]),
        (Systemd(unit="t", kill=True),
         ["systemctl --no-ask-password kill --signal=SIGKILL t",
          "systemctl --no-ask-password restart t"]),
        (Container("docker", container="t"), ["docker restart t"]),
        (Container("podman", container="t"), ["podman restart t"]),
        (Container("docker", container="t", kill=True), ["docker restart -t 0 t"]),
        (Command(command=("docker", "a b", "*")), ["docker a b *"]),
    ],
)  # fmt: skip
async def test_what_programs_are_told(programs: Path, action: Restart, told: list[str]) -> None:
    await perform(action)
    assert (programs / "log").read_text().splitlines() == told


async def test_a_unit_that_cannot_be_killed_is_restarted_all_the_same(programs: Path) -> None:
    program = programs / "bin" / "systemctl"
    program.write_text(program.read_text() + 'test "$2" != kill\n')
    await perform(Systemd(unit="t", kill=True))
    assert "restart t" in (programs / "log").read_text()


@pytest.mark.parametrize(
    "action",
    [
        Systemd(unit="t", kill=True),
        Container("docker", container="t"),
        Command(command=("systemctl", "restart", "t")),
    ],
)
async def test_the_units_are_told_whose_restart_it_is(
    action: Restart, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the ExecStop= of Triton's unit would have this sidecar stopped: docs/systemd.md."""
    runtime = programs / "runtime"
    runtime.mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(runtime))
    for name in ("systemctl", "docker"):
        program = programs / "bin" / name
        program.write_text(f"{program.read_text()}ls {runtime} >> {programs}/signs\nfalse\n")
    with pytest.raises(Rejected):
        await perform(action)
    assert set((programs / "signs").read_text().split()) == {"recovering"}
    assert list(runtime.iterdir()) == []


async def test_a_refusal_is_quoted(programs: Path) -> None:
    program = programs / "bin" / "systemctl"
    program.write_text("#!/bin/sh\necho 'Access\ndenied' >&2; exit 4\n")
    with pytest.raises(Rejected, match=r"^systemctl: ended with 4: Access denied$"):
        await perform(Systemd(unit="t"))


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("exit 3", "ended with 3$"),
        ("kill -KILL $$", "was killed by SIGKILL$"),
        ("printf '\\377'; exit 1", "ended with 1: \ufffd$"),
    ],
)
async def test_how_a_program_ended(script: str, why: str) -> None:
    with pytest.raises(Rejected, match=why):
        await run(("/bin/sh", "-c", script), 60)


async def test_a_program_cannot_speak_to_systemd_for_us(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(Rejected, match=r"ended with 1: none of them$"):
        await run(
            ("/bin/sh", "-c", "env | grep -E '^(NOTIFY|WATCHDOG)_' || (echo none of them; exit 1)"),
            60,
        )


@pytest.mark.parametrize("program", ["/no/such/program", "/etc/passwd", "nul\0"])
async def test_what_cannot_be_started(program: str) -> None:
    with pytest.raises(Rejected, match="cannot be started"):
        await run((program,), 60)


async def test_a_loud_program_is_heard_to_its_end_and_cut() -> None:
    loud = "import sys; print('x' * 10_000_000, 'the reason'); sys.exit(1)"
    with pytest.raises(Rejected, match=r"the reason$") as caught:
        await run((sys.executable, "-c", loud), 60)
    assert len(str(caught.value)) < 400


async def test_after_the_deadline_nothing_is_left(tmp_path: Path) -> None:
    script = f"trap '' TERM; echo before; sleep 300; : {tmp_path}"
    with pytest.raises(DeadlineExceeded, match=r"did not end within 0\.5 s"):
        await run(("/bin/sh", "-c", script), 0.5)
    left = psutil.process_iter(["cmdline"])  # of those that end meanwhile it is None
    assert not [each for each in left if str(tmp_path) in " ".join(each.info["cmdline"] or ())]


async def test_who_is_cancelled_takes_along_what_was_started(
    tmp_path: Path, children: Children
) -> None:
    script = f"cd {tmp_path}; sleep 300 & echo $! > stub.new; mv stub.new stub; wait"
    work = asyncio.create_task(run(("/bin/sh", "-c", script), 300))
    stub = await children.started("stub")
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await gone(stub)


async def test_what_a_program_leaves_running_is_not_waited_for(
    tmp_path: Path, children: Children
) -> None:
    # It even keeps the program's output open.
    script = f"sleep 300 & echo $! > {tmp_path}/stub"
    await run(("/bin/sh", "-c", script), 60)
    assert running(await children.started("stub"))


async def test_no_file_is_left_open(tmp_path: Path) -> None:
    gc.collect()  # what earlier tests have left
    before = psutil.Process().num_fds()
    for _ in range(3):
        await run(("/bin/true",), 60)
        with pytest.raises(Rejected):
            await run((str(tmp_path),), 60)
    assert psutil.Process().num_fds() <= before


def signalling(**how: object) -> Signal:
    return SignalAction.model_validate({"kind": "signal", "timeout": 60, **how}).restart


def note(folder: Path, pid: object) -> Path:
    (folder / "pid").write_text(f"{pid}\n")
    return folder / "pid"


async def test_kill_ends_the_process_its_group_and_who_left_it(
    tmp_path: Path, children: Children
) -> None:
    leader = children.start("/bin/sh", "-c", FAMILY)
    stub, worker = await children.started("stub"), await children.started("worker")
    await perform(signalling(pid_file=note(tmp_path, leader.pid)))
    assert leader.wait() == -signal.SIGKILL
    await gone(stub, worker)


async def test_a_frozen_process_is_killed_and_its_children_with_it(
    tmp_path: Path, children: Children
) -> None:
    leader = children.start("/bin/sh", "-c", FAMILY)
    stub = await children.started("stub")
    await children.started("worker")
    os.killpg(leader.pid, signal.SIGSTOP)
    await perform(signalling(pid_file=note(tmp_path, leader.pid)))
    assert leader.wait() == -signal.SIGKILL
    await gone(stub)


async def test_who_only_shares_the_group_is_spared(tmp_path: Path, children: Children) -> None:
    children.start("/bin/sh", "-c", f"sh -c '{FAMILY}' & echo $! > inner; sleep 300")
    inner, stub = await children.started("inner"), await children.started("stub")
    await children.started("worker")
    await perform(signalling(pid_file=note(tmp_path, inner)))
    await gone(inner, stub)
    assert running(children._started[0].pid)


async def test_other_signals_go_to_the_process_alone(tmp_path: Path, children: Children) -> None:
    leader = children.start("/bin/sh", "-c", FAMILY)
    stub = await children.started("stub")
    await children.started("worker")
    os.kill(leader.pid, signal.SIGSTOP)  # it has to be woken to hear the signal
    await perform(signalling(signal="TERM", pid_file=note(tmp_path, leader.pid)))
    assert leader.wait() == -signal.SIGTERM
    assert running(stub)


async def test_who_does_not_end_is_told(tmp_path: Path, children: Children) -> None:
    deaf = children.start("/bin/sh", "-c", "trap '' TERM; echo > ready; while :; do sleep 1; done")
    await children.told("ready")
    action = signalling(signal="TERM", timeout=2, pid_file=note(tmp_path, deaf.pid))
    with pytest.raises(DeadlineExceeded, match=r"did not end within 2 s of SIGTERM"):
        await perform(action)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::ffff:127.0.0.1"])  # gRPC's way
async def test_the_listener_is_found_and_killed(host: str, children: Children) -> None:
    listener = children.start(sys.executable, "-c", LISTENER, host)
    port, child = map(int, (await children.told("port")).split())
    children.others.append(child)
    assert triton_processes.family("127.0.0.1", port) == frozenset({listener.pid, child})
    await perform(signalling(listener=True), f"127.0.0.1:{port}")
    assert listener.wait() == -signal.SIGKILL
    await gone(child)


async def test_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(Rejected, match=f"nothing listens on {address}"):
        await perform(signalling(listener=True), address)
    assert triton_processes.family(*split_address(address)) is None


async def test_the_sidecar_kills_neither_itself_nor_what_it_depends_on(tmp_path: Path) -> None:
    for pid in (os.getpid(), os.getppid(), 1):
        with pytest.raises(Rejected, match=f"process {pid}: the sidecar itself depends on it"):
            await perform(signalling(pid_file=note(tmp_path, pid)))


async def test_a_stranger_with_an_old_pid_is_spared(tmp_path: Path, children: Children) -> None:
    stranger = children.start("sleep", "300")
    file = note(tmp_path, stranger.pid)
    os.utime(file, (0, file.stat().st_mtime - 3600))
    with pytest.raises(Rejected, match="started after the file was written"):
        await perform(signalling(pid_file=file))
    assert stranger.poll() is None


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("tritonserver", "expected a process id, found 'tritonserver"),
        ("-1", "expected a process id, found '-1"),
        ("", "expected a process id"),
        ("999999999", "the process is gone"),
        (None, "No such file"),
    ],
)
async def test_pid_files_that_name_no_process(
    tmp_path: Path, content: str | None, why: str
) -> None:
    file = note(tmp_path, content) if content is not None else tmp_path / "none"
    with pytest.raises(Rejected, match=why):
        await perform(signalling(pid_file=file))


Asked = list[tuple[str, str, str | None, object]]


@asynccontextmanager
async def nomad(
    status: int = 200, body: str = "{}", unix: Path | None = None
) -> AsyncIterator[tuple[str, Asked]]:
    """A stand-in for a Nomad agent: its address, and what it was asked."""
    asked: Asked = []

    async def answer(request: web.Request) -> web.Response:
        token = request.headers.get("X-Nomad-Token")
        asked.append((request.method, request.path, token, await request.json()))
        return web.Response(status=status, text=body, headers={"Location": "/elsewhere"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.UnixSite(runner, str(unix)) if unix else web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield (f"unix://{unix}" if unix else f"http://127.0.0.1:{runner.addresses[0][1]}", asked)
    finally:
        await runner.cleanup()


def allocated(address: str, **how: object) -> Nomad:
    table = {"kind": "nomad", "task": "triton", "allocation": ALLOCATION, "address": address}
    return NomadAction.model_validate({**table, "timeout": 60, **how}).restart


RESTART = ("PUT", f"/v1/client/allocation/{ALLOCATION}/restart")


@pytest.mark.parametrize("token", [None, SecretStr("hush")])
async def test_nomad_restarts_one_task_in_place(token: SecretStr | None) -> None:
    async with nomad() as (address, asked):
        await perform(allocated(address, token=token))
    assert asked == [(*RESTART, token and "hush", {"TaskName": "triton"})]


async def test_nomad_on_the_socket_of_the_task(tmp_path: Path) -> None:
    async with nomad(unix=tmp_path / "api.sock") as (address, asked):
        await perform(allocated(address))
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("status", "kind", "why"),
    [
        (307, Rejected, "nomad: 307"),
        (403, Rejected, "nomad: 403: Permission denied$"),
        (404, NotFound, "nomad: 404"),
        (500, Unavailable, "nomad: 500"),
    ],
)
async def test_what_nomad_refuses(status: int, kind: type[SidecarError], why: str) -> None:
    async with nomad(status, "Permission\ndenied") as (address, asked):
        with pytest.raises(kind, match=why) as caught:
            await perform(allocated(address))
    assert type(caught.value) is kind
    assert len(asked) == 1  # a redirection would carry the token elsewhere


async def test_a_nomad_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.3 s"):
            await perform(allocated(address, timeout=0.3))
    with pytest.raises(Unavailable, match=r"^nomad: "):
        await perform(allocated(address))


def test_files_that_nomad_needs_are_looked_for_at_the_start(tmp_path: Path) -> None:
    for how in ({"token_file": tmp_path / "no"}, {"ca_file": tmp_path / "no"}):
        with pytest.raises(ConfigError, match=r"recovery\.action"):
            build(allocated("https://127.0.0.1:4646", **how), TRITON)


@pytest.mark.parametrize(
    ("action", "name"),
    [
        (Systemd(unit="t@0"), "systemd: restart t@0"),
        (Container("podman", container="t"), "podman: restart t"),
        (allocated("http://127.0.0.1:1"), f"nomad: restart triton of {ALLOCATION}"),
        (Command(command=("/bin/x", "--token=hush")), "command: /bin/x"),
        (signalling(listener=True), f"signal: KILL to the listener on {TRITON}"),
        (signalling(pid_file="/run/t.pid"), "signal: KILL to the process in /run/t.pid"),
    ],
)
def test_each_action_says_what_it_does(action: Restart, name: str) -> None:
    assert build(action, TRITON).name == name
