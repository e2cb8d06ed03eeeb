"""A program whose log cannot be written keeps running, serves, and stops gracefully."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from sidecar.local.planning.ports import reserve
from tests.support.soak import soak

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]
PATIENCE = 120.0  # seconds; machines are shared
# Nothing listens on the ports of Consul and Triton, so there is much to log.
RUN = """
log.level = "debug"
drain.timeout = "1s"
consul.address = "http://127.0.0.1:{0}"
service = {{ name = "triton", address = "127.0.0.1" }}
triton = {{ grpc = "127.0.0.1:{0}", models = ["m"] }}
listen = {{ grpc = "127.0.0.1:{1}", metrics = "127.0.0.1:{2}" }}
"""
XDS = """
log.level = "debug"
consul.address = "http://127.0.0.1:{0}"
xds = {{ services = ["triton"], listen = "127.0.0.1:{1}", metrics = "127.0.0.1:{2}" }}
"""


@contextmanager
def full() -> Iterator[int]:
    number = os.open("/dev/full", os.O_WRONLY)
    yield number
    os.close(number)


@contextmanager
def unconnected() -> Iterator[int]:
    """A pipe whose reading end is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@contextmanager
def unread() -> Iterator[int]:
    """A full pipe, because its reader does not read."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    yield writer
    os.close(reader)
    os.close(writer)


@contextmanager
def closed() -> Iterator[None]:
    yield None


def page(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def until(port: int, holds: Callable[[str], bool]) -> None:
    """Wait until the metrics page satisfies the condition."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(OSError):
            if holds(page(port)):
                return
        time.sleep(0.1)
    raise AssertionError(page(port))


def stop(child: "subprocess.Popen[bytes]") -> int:
    """Send SIGTERM, once the program has a handler for it; returns its exit status."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        status = Path(f"/proc/{child.pid}/status").read_text()
        caught = int(status.split("SigCgt:")[1].split()[0], 16)
        if caught >> (signal.SIGTERM - 1) & 1:
            break
        time.sleep(0.1)
    child.send_signal(signal.SIGTERM)
    return child.wait(PATIENCE)


def dropped(text: str) -> float:
    [count] = re.findall(r"^triton_sidecar_log_lines_dropped_total (\S+)$", text, re.MULTILINE)
    return float(count)


@pytest.mark.parametrize(
    ("command", "stderr", "counted"),
    [
        pytest.param("run", full, True, marks=soak),
        ("run", closed, False),
        ("xds", full, True),
        ("xds", unconnected, True),
        ("xds", unread, False),
        pytest.param("xds", closed, False, marks=soak),
    ],
)
def test_a_program_with_an_unwritable_log_keeps_running(
    command: str,
    stderr: Callable[[], AbstractContextManager[int | None]],
    counted: bool,
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        ports = stack.enter_context(reserve(3))
        config = tmp_path / "config.toml"
        config.write_text({"run": RUN, "xds": XDS}[command].format(*ports))
        number = stack.enter_context(stderr())
        closing = ("sh", "-c", 'exec "$@" 2>&-', "sh") if number is None else ()
        child = subprocess.Popen(
            (*closing, sys.executable, "-m", "sidecar", command, "--config", str(config)),
            cwd=ROOT,
            stderr=number,
        )
        stack.callback(child.wait)
        stack.callback(child.kill)
        until(ports[2], lambda text: dropped(text) > 0 if counted else True)
        if number is not None and not counted:  # so that C libraries do not block either
            flags = Path(f"/proc/{child.pid}/fdinfo/2").read_text().split("flags:")[1].split()[0]
            assert int(flags, 8) & os.O_NONBLOCK
        assert stop(child) == 0


def test_a_log_with_space_again_reports_the_dropped_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with reserve(3) as ports, log.open("ab") as file:
        config = tmp_path / "config.toml"
        config.write_text(RUN.format(*ports))
        limited = f"""
import resource, signal, sys, threading, time
from pathlib import Path
from sidecar.cli.main import main
unlimited = resource.RLIM_INFINITY
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, unlimited))
def more():
    while not Path({str(tmp_path / "more")!r}).exists():
        time.sleep(0.05)
    resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
threading.Thread(target=more, daemon=True).start()
sys.argv = ["triton-sidecar", "run", "--config", {str(config)!r}]
main()
"""
        child = subprocess.Popen((sys.executable, "-c", limited), cwd=ROOT, stderr=file)
        try:
            until(ports[2], lambda text: dropped(text) > 0)
            (tmp_path / "more").touch()
            deadline = time.monotonic() + PATIENCE
            while '"log_lines_dropped"' not in log.read_text() and time.monotonic() < deadline:
                time.sleep(0.1)
            assert stop(child) == 0
        finally:
            child.kill()
            child.wait()
    said = log.read_text()
    assert '"why": "File too large", "event": "log_lines_dropped"' in said
    assert '"step": "close_server"' in said
