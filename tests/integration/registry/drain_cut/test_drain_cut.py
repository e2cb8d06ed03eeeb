"""Cutting the connections that outlive a withdrawal, and the errors of doing so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.registry import connection_reset
from sidecar.registry.connection_reset import cut
from sidecar.runtime.errors import DeadlineExceeded, Rejected
from tests.support.soak import soak

pytestmark = pytest.mark.integration

FOLDER = Path(__file__).parent


@pytest.mark.timeout(900)  # longer than the timeout of the inner run
@pytest.mark.parametrize(
    ("scene", "passed"),
    [
        ("drain_cut_scene.py", "3 passed"),
        pytest.param("drain_cut_mesh.py", "1 passed", marks=soak),
    ],
)
def test_connections_that_outlive_a_withdrawal_are_cut(scene: str, passed: str) -> None:
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    script = 'ip link set lo up && exec "$0" -m pytest -q "$1"'
    argv = ["unshare", *user, "--net", "sh", "-c", script, sys.executable, str(FOLDER / scene)]
    done = subprocess.run(argv, cwd=FOLDER.parents[3], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert passed in done.stdout


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("echo 'SOCK_DESTROY answers: Operation not permitted' >&2", Rejected),
        ("exit 1", Rejected),
        ("exec sleep 60", DeadlineExceeded),
        (None, Rejected),
    ],
)
async def test_an_error_of_ss_is_reported(
    script: str | None,
    error: type[Exception],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if script is not None:
        (tmp_path / "ss").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "ss").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin" if script else str(tmp_path))
    if error is DeadlineExceeded:
        monkeypatch.setattr(connection_reset, "_TIMEOUT", 0.2)
    with pytest.raises(error, match="ss: "):
        await cut(1)
