"""SIGKILL at any moment leaves a valid store, and the same command resumes."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.models.store.places import location
from sidecar.models.store.places.backend import Backend
from tests.support import kill_points, model_stores
from tests.support.soak import times

_EVERY = times(16, soaking=1)  # operations
_ROUNDS = times(2, soaking=40)
_LARGE = 12 * 2**20  # bytes
Command = Callable[[], list[str]]


@pytest.mark.parametrize("verb", kill_points.VERBS)
def test_killed_before_each_operation_on_files(verb: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.support.kill_points", verb, str(tmp_path), str(_EVERY)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) > 5


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    bucket = request.param == "bucket"
    return str(request.getfixturevalue("s3")) if bucket else str(tmp_path / "store")


def test_a_push_killed_at_any_byte(place: str, tmp_path: Path) -> None:
    model = large_model(tmp_path / "model", b"first")
    store = location.backend(place)
    model_stores.push(store, model, "chat:before")
    took = seconds(["push", "chat:measured", str(large_model(tmp_path / "other", b"o"))], place)
    for number in range(_ROUNDS):
        large_model(model, f"{number}".encode())
        command = ["push", f"chat:v{number}", str(model)]
        kill_after(random.uniform(0.2, 1.1) * took, command, place)
        assert model_stores.verify(location.backend(place)).damages == ()
        model_stores.push(store, model, f"chat:v{number}")
        assert model_stores.verify(store, f"chat:v{number}").damages == ()
    assert left_in(store) == []


def test_a_pull_killed_at_any_byte(place: str, tmp_path: Path) -> None:
    model = large_model(tmp_path / "model", b"first")
    store, target = location.backend(place), tmp_path / "pulled"
    model_stores.push(store, model)
    pull = ["pull", "chat:v1", "--copy", "--to"]
    took = seconds([*pull, str(tmp_path / "measured")], place)
    for _ in range(_ROUNDS):
        kill_after(random.uniform(0.2, 1.1) * took, [*pull, str(target)], place)
        if target.exists():
            assert model_stores.content(target) == model_stores.content(model)
            subprocess.run(["rm", "-r", str(target)], check=True)
    seconds([*pull, str(target)], place)
    assert model_stores.content(target) == model_stores.content(model)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def large_model(folder: Path, content: bytes) -> Path:
    """A model that takes a moment."""
    weights = {f"1/weights-{number}": content + os.urandom(_LARGE) for number in range(2)}
    return model_stores.model(folder, {**model_stores.FILES, **weights})


def start(verb: list[str], place: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "sidecar", "model", *verb, "--store", place]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def seconds(verb: list[str], place: str) -> float:
    began = time.monotonic()
    assert start(verb, place).wait() == 0
    return time.monotonic() - began


def kill_after(seconds: float, verb: list[str], place: str) -> None:
    process = start(verb, place)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    process.wait()


def left_in(store: Backend) -> list[str]:
    """Temporary files that remain, apart from what a bucket needs."""
    store.tidy()
    found = (item.key for item in store.items("partial"))
    return [key for key in found if "/claims/" not in key and not key.endswith("/clock")]
