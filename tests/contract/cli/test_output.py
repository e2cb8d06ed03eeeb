"""A command whose output cannot be written still does its work and reports its exit status."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import typer

from sidecar.cli import main, output
from sidecar.local import status_table
from sidecar.telemetry.line_writer import LineWriter

FULL = "/dev/full"


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


@contextmanager
def redirected(number: int, target: int) -> Iterator[None]:
    kept = os.dup(number)
    os.dup2(target, number)
    try:
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)


@pytest.fixture
def full() -> Iterator[int]:
    number = os.open(FULL, os.O_WRONLY)
    yield number
    os.close(number)


@pytest.fixture
def closed_pipe() -> Iterator[int]:
    """A pipe whose reader has closed it."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["triton-sidecar", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    return ended.value.code


@pytest.mark.parametrize(
    "words", [*commands(typer.main.get_command(main.app)), ("--version",)], ids=" ".join
)
def test_help_on_a_full_disk_is_one_line_on_stderr_and_status_1(
    words: tuple[str, ...],
    full: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with redirected(1, full):
        status = call(monkeypatch, *words, *(() if words == ("--version",) else ("--help",)))
    assert status == 1
    said = "triton-sidecar: standard output: No space left on device\n"
    assert capfd.readouterr() == ("", said)


@pytest.mark.parametrize(("where", "status"), [("full", 1), ("closed_pipe", None)])
def test_a_mesh_whose_output_cannot_be_written_ends_with_a_message(
    where: str,
    status: int | None,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    # The writer is cached: no later test inherits it, nor the lines that it could not write.
    monkeypatch.setattr(status_table, "_output", cache(status_table._Output))
    monkeypatch.setattr(status_table, "LineWriter", partial(LineWriter, retry=1e6))
    monkeypatch.setattr("sidecar.local.launch.up", lambda *_: status_table._say("mesh: running"))
    with redirected(1, request.getfixturevalue(where)):
        ended = call(monkeypatch, "local", "up", f"--dir={tmp_path}")
    assert (ended or None) == status
    said = "triton-sidecar: standard output: No space left on device\n"
    assert capfd.readouterr().err == (said if status else "")


def test_a_closed_pipe_is_no_error(
    closed_pipe: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with redirected(1, closed_pipe):
        status = call(monkeypatch, "--help")
    assert not status
    assert capfd.readouterr() == ("", "")


def test_an_unwritable_stderr_does_not_change_the_exit_status(
    full: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redirected(2, full):
        assert call(monkeypatch, "list", "--bogus") == 2


def test_an_unwritable_stdout_does_not_replace_the_exit_status_of_a_command(
    full: int, capfd: pytest.CaptureFixture[str]
) -> None:
    @output.guard_output()
    def verb() -> None:
        print("a finding")
        sys.exit(3)

    with redirected(1, full), pytest.raises(SystemExit) as ended:
        verb()
    assert ended.value.code == 3
    assert capfd.readouterr().err.count("\n") == 1


def test_a_command_continues_after_its_reader_has_closed_the_pipe(closed_pipe: int) -> None:
    done = []
    with redirected(1, closed_pipe), output.guard_output():
        for step in range(3):
            print("x" * 100_000, flush=True)
            done.append(step)
        assert not output.is_still_read()
    assert done == [0, 1, 2]


def test_after_lost_output_no_more_is_written(full: int, capfd: pytest.CaptureFixture[str]) -> None:
    @output.guard_output()
    def verb() -> None:
        with redirected(1, full):
            print("lost", flush=True)
        print("the second half", flush=True)  # the disk has space again

    with pytest.raises(SystemExit):
        verb()
    assert capfd.readouterr().out == ""


def test_a_slow_reader_of_a_nonblocking_pipe_gets_all_output() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    child = subprocess.Popen(("wc", "-c"), stdin=reader, stdout=subprocess.PIPE)
    os.close(reader)
    with redirected(1, writer), output.guard_output():
        print("x" * 1_000_000)
    os.close(writer)
    assert child.communicate()[0].strip() == b"1000001"


@pytest.mark.parametrize(
    ("closed", "status", "said"),
    [
        ((1,), 1, "triton-sidecar: standard output: Bad file descriptor\n"),
        ((2,), 0, ""),
        ((0,), 0, ""),
        ((0, 1, 2), 1, ""),
    ],
)
def test_a_process_that_starts_with_closed_streams(
    closed: tuple[int, ...], status: int, said: str
) -> None:
    closing = " ".join(f"{number}>&-" for number in closed)
    done = subprocess.run(
        ("sh", "-c", f'exec "$@" {closing}', "sh", sys.executable, "-m", "sidecar", "--version"),
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status
    assert done.stderr == said


def test_the_interpreter_prints_no_further_error_at_exit(full: int) -> None:
    done = subprocess.run(
        (sys.executable, "-m", "sidecar", "local", "--help"),
        check=False,
        stdout=full,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == "triton-sidecar: standard output: No space left on device\n"


def test_a_character_outside_the_encoding_is_escaped() -> None:
    done = subprocess.run(
        (
            sys.executable,
            "-c",
            "from sidecar.cli.output import guard_output\nwith guard_output(): print('5 …')",
        ),
        check=False,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert (done.returncode, done.stdout) == (0, b"5 \\u2026\n")
