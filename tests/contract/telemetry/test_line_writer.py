"""An unwritable log: lines are dropped, counted, and reported when writing works again."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from sidecar.telemetry import logs
from sidecar.telemetry.line_writer import LineWriter, unblock

PATIENCE = 60.0  # seconds; each step takes far less
# For notices that are never written: a closed descriptor's number is soon reused.
NEVER = 1e6
TOO_LONG = "a line of more than {} bytes"


def notice(count: int, why: str) -> str:
    return f"dropped {count}: {why}"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[int]:
    """A descriptor of `tmp_path / "log"`."""
    number = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    yield number
    os.close(number)


def redirect(number: int, to: Path) -> None:
    """Redirect a descriptor to another file."""
    other = os.open(to, os.O_WRONLY | os.O_APPEND)
    os.dup2(other, number)
    os.close(other)


def test_lines_lost_on_a_full_disk_are_reported_before_the_next_line(
    log: int, tmp_path: Path
) -> None:
    said = LineWriter(log, notice)
    said.put("a")
    assert said.flush(PATIENCE)
    redirect(log, Path("/dev/full"))
    said.put("b")
    said.put("c")
    assert not said.flush(PATIENCE)
    assert said.dropped == 2
    redirect(log, tmp_path / "log")
    said.put("d")
    assert said.flush(PATIENCE)
    assert (tmp_path / "log").read_text() == "a\ndropped 2: No space left on device\nd\n"
    assert said.dropped == 2


def test_lost_lines_are_reported_even_without_a_next_line(log: int, tmp_path: Path) -> None:
    said = LineWriter(log, notice, retry=0.01)
    redirect(log, Path("/dev/full"))
    said.put("a")
    assert not said.flush(PATIENCE)
    redirect(log, tmp_path / "log")
    while not (noticed := (tmp_path / "log").read_text()).endswith("\n"):
        time.sleep(0.01)
    assert noticed == "dropped 1: No space left on device\n"


def test_a_reader_that_does_not_read_does_not_block_the_writer() -> None:
    reader, writer = os.pipe()
    said = LineWriter(writer, notice, waiting=100_000)
    for count in range(1000):
        said.put(f"{count:0999}")
    assert said.dropped > 500
    got: list[int] = []
    noticed = 0
    with open(reader, encoding="ascii") as read:  # noqa: PTH123  # a descriptor
        while len(got) + noticed < 1000:
            word, _, rest = read.readline().partition(" ")
            if word == "dropped":
                noticed += int(rest.partition(":")[0])
            else:
                got.append(int(word))
                # The notice is where the lines are missing.
                assert got[-1] == len(got) - 1 + noticed
    assert noticed == said.dropped
    assert got == sorted(set(got))
    os.close(writer)


def test_a_nonblocking_pipe_is_retried_until_it_is_writable(log: int) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    said = LineWriter(writer, notice)
    for _ in range(500):
        said.put("x" * 999)
    with open(reader, encoding="ascii") as read:  # noqa: PTH123  # a descriptor
        assert len(read.read(500_000)) == 500_000
    assert said.flush(PATIENCE)
    assert said.dropped == 0
    os.close(writer)


def test_a_hung_disk_blocks_only_its_thread(log: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = threading.Event()
    write = os.write

    def hang(number: int, data: bytes) -> int:
        hangs.wait(PATIENCE)
        return write(number, data)

    monkeypatch.setattr(os, "write", hang)
    said = LineWriter(log, notice)
    said.put("a")
    assert not said.flush(0.0)
    hangs.set()
    assert said.flush(PATIENCE)


def test_a_closed_pipe_and_a_closed_descriptor_raise_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    for number in (writer, 1_000):
        said = LineWriter(number, notice, retry=NEVER)
        said.put("a")
        assert not said.flush(PATIENCE)
        assert said.dropped == 1
    os.close(writer)


def test_a_flush_retries_the_notices(log: int, tmp_path: Path) -> None:
    said = LineWriter(log, notice, retry=NEVER)
    redirect(log, Path("/dev/full"))
    said.put("a")
    assert not said.flush(PATIENCE)
    redirect(log, tmp_path / "log")
    assert said.flush(PATIENCE)
    assert (tmp_path / "log").read_text() == "dropped 1: No space left on device\n"


def test_a_line_longer_than_the_queue_is_reported_as_such(log: int, tmp_path: Path) -> None:
    said = LineWriter(log, notice, waiting=100)
    for line in ("a", "x" * 100, "y" * 200, "b"):
        said.put(line)
    assert said.flush(PATIENCE)
    assert (tmp_path / "log").read_text() == f"a\ndropped 2: {TOO_LONG.format(100)}\nb\n"


def test_a_full_queue_is_reported_after_the_lines_before_it(
    log: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, hangs, write = threading.Event(), threading.Event(), os.write

    def hang(number: int, data: bytes) -> int:
        begun.set()
        hangs.wait(PATIENCE)
        return write(number, data)

    monkeypatch.setattr(os, "write", hang)
    said = LineWriter(log, notice, waiting=10)
    said.put("a" * 9)
    assert begun.wait(PATIENCE)  # taken from the queue, which has space for one more
    for line in ("b" * 9, "c" * 9, "d" * 99):
        said.put(line)
    hangs.set()
    assert said.flush(PATIENCE)
    assert (tmp_path / "log").read_text().splitlines() == [
        "a" * 9,
        "b" * 9,
        "dropped 1: the reader is too slow, or the disk hangs",
        f"dropped 1: {TOO_LONG.format(10)}",
    ]


def test_a_library_may_log_at_a_custom_level(capsys: pytest.CaptureFixture[str]) -> None:
    with structlog.testing.capture_logs() as caught:
        for number in (1, 5, 15, 25, 35, 60):
            record = logging.LogRecord("x", number, "", 0, "hello %s", ("you",), None)
            logs._LibraryHandler().emit(record)
    # Lines below this process's level may be dropped.
    assert [each["log_level"] for each in caught][-3:] == ["info", "warning", "critical"]
    assert {(each["event"], each["message"]) for each in caught} == {("library_log", "hello you")}
    assert capsys.readouterr().err == ""


LIMITED = """
import os, resource, sys
from sidecar.telemetry.line_writer import LineWriter
said = LineWriter(1, lambda count, why: f"dropped {count}: {why}")
resource.setrlimit(resource.RLIMIT_FSIZE, (15, resource.RLIM_INFINITY))
said.put("a" * 9); said.put("b" * 9); assert not said.flush(60)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
said.put("c" * 9); assert said.flush(60)
"""


def test_a_partial_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        subprocess.run((sys.executable, "-c", LIMITED), check=True, stdout=file)
    assert path.read_text().splitlines() == [
        "a" * 9,
        "b" * 5,
        f"dropped 1: {os.strerror(27)}",
        "c" * 9,
    ]


def test_a_shared_pipe_stays_blocking_for_other_processes() -> None:
    reader, writer = os.pipe()
    own = os.dup(writer)
    unblock(own)
    assert os.get_blocking(writer)
    assert not os.get_blocking(own)
    os.write(own, b"x")
    assert os.read(reader, 1) == b"x"
    for number in (reader, writer, own):
        os.close(number)


def test_a_file_keeps_its_position(log: int, tmp_path: Path) -> None:
    os.write(log, b"before\n")
    unblock(log)
    os.write(log, b"after\n")
    assert (tmp_path / "log").read_text() == "before\nafter\n"


ENDING = """
from contextlib import suppress
import structlog, typer
from sidecar.cli import run
from sidecar.cli.exit_status import exit_with_status
from sidecar.runtime.errors import ConfigError
from sidecar.telemetry import logs

async def main():
    logs.configure("info", "auto")
    for number in range(5000):
        structlog.get_logger().info("hello", number=number)
    raise ConfigError("it was nice")

with suppress(typer.Exit), exit_with_status():
    run.serve(main())
"""


def test_the_final_message_comes_last() -> None:
    found = subprocess.run((sys.executable, "-c", ENDING), capture_output=True, text=True)
    lines = found.stderr.splitlines()
    assert lines[-1] == "triton-sidecar: it was nice"
    assert len(lines) == 5001


LEVELS = """
import logging, os, structlog
from sidecar.telemetry import logs
at = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{at.st_dev}:{at.st_ino + OTHER}"
logs.configure("debug", FORMAT)
said = structlog.get_logger()
said.debug("a"), said.info("b"), said.warning("c"), said.error("d")
logging.getLogger("library").error("e")
logs.finish()
"""


@pytest.mark.parametrize("form", ["json", "console"])
def test_the_journal_gets_the_priority_of_each_line(form: str) -> None:
    """For `journalctl -p warning`."""
    program = LEVELS.replace("OTHER", "0").replace("FORMAT", repr(form))
    found = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True)
    assert [line[:3] for line in found.stderr.splitlines()] == ["<7>", "<6>", "<4>", "<3>", "<3>"]


def test_only_the_journal_gets_priorities() -> None:
    program = LEVELS.replace("OTHER", "1").replace("FORMAT", "'json'")
    found = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True)
    assert {line[0] for line in found.stderr.splitlines()} == {"{"}
