"""Recovery's actions on real processes, with stand-ins for systemctl, docker and Nomad."""

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
# A leader and its children: `stub` is in its group, `worker` has a separate session.
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
    """A folder whose `bin` is first on PATH; its programs write their command lines to `log`."""
    for name in ("systemctl", "docker", "podman"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/log\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path


class Children:
    """Child processes of a test, each the leader of a group; `end` kills those that remain."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[subprocess.Popen[bytes]] = []
        self.others: list[int] = []

    def start(self, *argv: str) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(argv, cwd=self._folder, start_new_session=True)
        self._started.append(child)
        return child

    async def written(self, name: str) -> str:
        """The content of a file, once a child has written a whole line."""
        path = self._folder / name
        async with asyncio.timeout(60):
            while not (path.exists() and path.read_text().endswith("\n")):
                await asyncio.sleep(0.01)
        return path.read_text().strip()

    async def started(self, name: str) -> int:
        self.others.append(int(await self.written(name)))
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
    ("action", "commands"),
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
async def test_an_action_runs_these_commands(
    programs: Path, action: Restart, commands: list[str]
) -> None:
    await perform(action)
    assert (programs / "log").read_text().splitlines() == commands


async def test_a_unit_is_restarted_even_if_it_cannot_be_killed(programs: Path) -> None:
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
async def test_a_marker_tells_the_units_that_recovery_restarts_triton(
    action: Restart, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the marker, ExecStop= of Triton's unit would stop this sidecar: docs/systemd.md."""
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


async def test_an_error_quotes_the_program(programs: Path) -> None:
    program = programs / "bin" / "systemctl"
    program.write_text("#!/bin/sh\necho 'Access\ndenied' >&2; exit 4\n")
    with pytest.raises(Rejected, match=r"^systemctl: ended with 4: Access denied$"):
        await perform(Systemd(unit="t"))


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("exit 3", "ended with 3$"),
        ("kill -KILL $$", " SIGKILL$"),
        ("printf '\\377'; exit 1", "ended with 1: \ufffd$"),
    ],
)
async def test_an_error_has_the_exit_status_or_signal(script: str, why: str) -> None:
    with pytest.raises(Rejected, match=why):
        await run(("/bin/sh", "-c", script), 60)


async def test_a_program_does_not_inherit_the_sockets_of_systemd(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(Rejected, match=r"ended with 1: none of them$"):
        await run(
            ("/bin/sh", "-c", "env | grep -E '^(NOTIFY|WATCHDOG)_' || (echo none of them; exit 1)"),
            60,
        )


@pytest.mark.parametrize("program", ["/no/such/program", "/etc/passwd", "nul\0"])
async def test_a_program_that_cannot_be_started_is_an_error(program: str) -> None:
    with pytest.raises(Rejected, match="cannot be started"):
        await run((program,), 60)


async def test_long_output_is_read_to_its_end_and_truncated() -> None:
    noisy = "import sys; print('x' * 10_000_000, 'the reason'); sys.exit(1)"
    with pytest.raises(Rejected, match=r"the reason$") as caught:
        await run((sys.executable, "-c", noisy), 60)
    assert len(str(caught.value)) < 400


async def test_a_program_is_killed_at_its_deadline(tmp_path: Path) -> None:
    script = f"trap '' TERM; echo before; sleep 300; : {tmp_path}"
    with pytest.raises(DeadlineExceeded, match=r"did not end within 0\.5 s"):
        await run(("/bin/sh", "-c", script), 0.5)
    left = psutil.process_iter(["cmdline"])  # None for processes that have just ended
    assert not [each for each in left if str(tmp_path) in " ".join(each.info["cmdline"] or ())]


async def test_a_cancelled_action_kills_the_program_and_its_children(
    tmp_path: Path, children: Children
) -> None:
    script = f"cd {tmp_path}; sleep 300 & echo $! > stub.new; mv stub.new stub; wait"
    work = asyncio.create_task(run(("/bin/sh", "-c", script), 300))
    stub = await children.started("stub")
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await gone(stub)


async def test_an_action_does_not_wait_for_children_that_outlive_the_program(
    tmp_path: Path, children: Children
) -> None:
    # The child keeps the program's output open.
    script = f"sleep 300 & echo $! > {tmp_path}/stub"
    await run(("/bin/sh", "-c", script), 60)
    assert running(await children.started("stub"))


async def test_no_file_descriptor_leaks(tmp_path: Path) -> None:
    gc.collect()  # files of earlier tests
    before = psutil.Process().num_fds()
    for _ in range(3):
        await run(("/bin/true",), 60)
        with pytest.raises(Rejected):
            await run((str(tmp_path),), 60)
    assert psutil.Process().num_fds() <= before


def signalling(**how: object) -> Signal:
    return SignalAction.model_validate({"kind": "signal", "timeout": 60, **how}).restart


def pid_file(folder: Path, pid: object) -> Path:
    (folder / "pid").write_text(f"{pid}\n")
    return folder / "pid"


async def test_kill_ends_the_process_its_group_and_its_other_children(
    tmp_path: Path, children: Children
) -> None:
    leader = children.start("/bin/sh", "-c", FAMILY)
    stub, worker = await children.started("stub"), await children.started("worker")
    await perform(signalling(pid_file=pid_file(tmp_path, leader.pid)))
    assert leader.wait() == -signal.SIGKILL
    await gone(stub, worker)


async def test_a_frozen_process_is_killed_with_its_children(
    tmp_path: Path, children: Children
) -> None:
    leader = children.start("/bin/sh", "-c", FAMILY)
    stub = await children.started("stub")
    await children.started("worker")
    os.killpg(leader.pid, signal.SIGSTOP)
    await perform(signalling(pid_file=pid_file(tmp_path, leader.pid)))
    assert leader.wait() == -signal.SIGKILL
    await gone(stub)


async def test_a_process_that_only_shares_the_group_is_not_killed(
    tmp_path: Path, children: Children
) -> None:
    children.start("/bin/sh", "-c", f"sh -c '{FAMILY}' & echo $! > inner; sleep 300")
    inner, stub = await children.started("inner"), await children.started("stub")
    await children.started("worker")
    await perform(signalling(pid_file=pid_file(tmp_path, inner)))
    await gone(inner, stub)
    assert running(children._started[0].pid)


async def test_other_signals_go_to_the_process_only(tmp_path: Path, children: Children) -> None:
    leader = children.start("/bin/sh", "-c", FAMILY)
    stub = await children.started("stub")
    await children.started("worker")
    os.kill(leader.pid, signal.SIGSTOP)  # SIGTERM alone would not end a stopped process
    await perform(signalling(signal="TERM", pid_file=pid_file(tmp_path, leader.pid)))
    assert leader.wait() == -signal.SIGTERM
    assert running(stub)


async def test_a_process_that_ignores_the_signal_is_an_error(
    tmp_path: Path, children: Children
) -> None:
    ignoring = children.start(
        "/bin/sh", "-c", "trap '' TERM; echo > ready; while :; do sleep 1; done"
    )
    await children.written("ready")
    action = signalling(signal="TERM", timeout=2, pid_file=pid_file(tmp_path, ignoring.pid))
    with pytest.raises(DeadlineExceeded, match=r"did not end within 2 s of SIGTERM"):
        await perform(action)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::ffff:127.0.0.1"])  # as gRPC writes it
async def test_the_listener_is_found_and_killed(host: str, children: Children) -> None:
    listener = children.start(sys.executable, "-c", LISTENER, host)
    port, child = map(int, (await children.written("port")).split())
    children.others.append(child)
    assert triton_processes.family("127.0.0.1", port) == frozenset({listener.pid, child})
    await perform(signalling(listener=True), f"127.0.0.1:{port}")
    assert listener.wait() == -signal.SIGKILL
    await gone(child)


async def test_without_a_listener_the_signal_is_rejected() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(Rejected, match=address):
        await perform(signalling(listener=True), address)
    assert triton_processes.family(*split_address(address)) is None


async def test_the_sidecar_kills_neither_itself_nor_its_parents(tmp_path: Path) -> None:
    for pid in (os.getpid(), os.getppid(), 1):
        with pytest.raises(Rejected, match=f"process {pid}: the sidecar itself depends on it"):
            await perform(signalling(pid_file=pid_file(tmp_path, pid)))


async def test_a_process_that_reuses_an_old_pid_is_not_killed(
    tmp_path: Path, children: Children
) -> None:
    other = children.start("sleep", "300")
    file = pid_file(tmp_path, other.pid)
    os.utime(file, (0, file.stat().st_mtime - 3600))
    with pytest.raises(Rejected, match="started after the file was written"):
        await perform(signalling(pid_file=file))
    assert other.poll() is None


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("tritonserver", "expected a process id, found 'tritonserver"),
        ("-1", "expected a process id, found '-1"),
        ("", "expected a process id"),
        ("999999999", "gone$"),
        (None, "No such file"),
    ],
)
async def test_a_pid_file_without_a_running_process_is_rejected(
    tmp_path: Path, content: str | None, why: str
) -> None:
    file = pid_file(tmp_path, content) if content is not None else tmp_path / "none"
    with pytest.raises(Rejected, match=why):
        await perform(signalling(pid_file=file))


Requests = list[tuple[str, str, str | None, object]]


@asynccontextmanager
async def nomad(
    status: int = 200, body: str = "{}", unix: Path | None = None
) -> AsyncIterator[tuple[str, Requests]]:
    """A stand-in for a Nomad agent: its address, and the requests that it got."""
    requests: Requests = []

    async def answer(request: web.Request) -> web.Response:
        token = request.headers.get("X-Nomad-Token")
        requests.append((request.method, request.path, token, await request.json()))
        return web.Response(status=status, text=body, headers={"Location": "/elsewhere"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.UnixSite(runner, str(unix)) if unix else web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield (f"unix://{unix}" if unix else f"http://127.0.0.1:{runner.addresses[0][1]}", requests)
    finally:
        await runner.cleanup()


def allocated(address: str, **how: object) -> Nomad:
    table = {"kind": "nomad", "task": "triton", "allocation": ALLOCATION, "address": address}
    return NomadAction.model_validate({**table, "timeout": 60, **how}).restart


RESTART = ("PUT", f"/v1/client/allocation/{ALLOCATION}/restart")


@pytest.mark.parametrize("token", [None, SecretStr("hush")])
async def test_nomad_restarts_one_task_in_place(token: SecretStr | None) -> None:
    async with nomad() as (address, requests):
        await perform(allocated(address, token=token))
    assert requests == [(*RESTART, token and "hush", {"TaskName": "triton"})]


async def test_nomad_is_reached_through_the_socket_of_the_task(tmp_path: Path) -> None:
    async with nomad(unix=tmp_path / "api.sock") as (address, requests):
        await perform(allocated(address))
    assert len(requests) == 1


@pytest.mark.parametrize(
    ("status", "kind", "why"),
    [
        (307, Rejected, "nomad: 307"),
        (403, Rejected, "nomad: 403: Permission denied$"),
        (404, NotFound, "nomad: 404"),
        (500, Unavailable, "nomad: 500"),
    ],
)
async def test_an_error_of_nomad_is_translated_and_not_redirected(
    status: int, kind: type[SidecarError], why: str
) -> None:
    async with nomad(status, "Permission\ndenied") as (address, requests):
        with pytest.raises(kind, match=why) as caught:
            await perform(allocated(address))
    assert type(caught.value) is kind
    assert len(requests) == 1  # a redirect would send the token to another host


async def test_a_nomad_that_does_not_answer_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.3 s"):
            await perform(allocated(address, timeout=0.3))
    with pytest.raises(Unavailable, match=r"^nomad: "):
        await perform(allocated(address))


def test_missing_files_for_nomad_are_an_error_at_the_start(tmp_path: Path) -> None:
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
def test_an_action_is_named_after_what_it_does(action: Restart, name: str) -> None:
    assert build(action, TRITON).name == name
