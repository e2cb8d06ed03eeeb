"""The guard of the pure tests notices each kind of I/O."""

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from tests.support.no_io import watched


def bind() -> None:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))


def connect() -> None:
    with socket.socket() as opened:
        opened.connect_ex(("127.0.0.1", 9))


FILES: dict[str, Callable[[], object]] = {
    "a file": lambda: Path("x").write_text("x"),
    "a folder": lambda: Path("x").mkdir(),
    "a sleep": lambda: time.sleep(0.001),
    "a sleep of the loop": lambda: asyncio.run(asyncio.sleep(0.001)),
}
ACTIONS: dict[str, Callable[[], object]] = {
    "a socket": bind,
    "a connection": connect,
    "a name": lambda: socket.getaddrinfo("127.0.0.1", 1),
    "a process": lambda: subprocess.run(["true"], check=True),
    "a signal": lambda: os.kill(os.getpid(), 0),
    "a gRPC server": lambda: grpc.server(ThreadPoolExecutor()).add_insecure_port("127.0.0.1:0"),
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("files", [False, True])
@pytest.mark.parametrize("kind", ACTIONS)
def test_each_kind_of_io_is_noticed(
    kind: str, files: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched(monkeypatch, files=files) as found:
        ACTIONS[kind]()
    assert len(found) == 1


@pytest.mark.parametrize("kind", FILES)
def test_writing_files_is_allowed_only_in_tests_of_files(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched(monkeypatch, files=True) as found:
        FILES[kind]()
    assert found == []
    for path in Path().iterdir():
        path.rmdir() if path.is_dir() else path.unlink()
    with watched(monkeypatch, files=False) as found:
        FILES[kind]()
    assert len(found) == 1


def test_reading_and_yielding_to_the_loop_are_not_io(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("x").write_text("x")
    with watched(monkeypatch, files=False) as found:
        Path("x").read_text()
        asyncio.run(asyncio.sleep(0))
    assert found == []
