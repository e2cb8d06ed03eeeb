"""The supervisor's state file."""

from pathlib import Path

import pytest

from sidecar.local.processes import state_file
from sidecar.local.processes.identity import Identity
from sidecar.local.processes.state_file import MeshState, PartState
from sidecar.runtime.errors import ConfigError


def test_the_state_file_round_trips(tmp_path: Path) -> None:
    part = PartState(
        "xds", "xds", "127.0.0.1:4", tmp_path / "x.log", "running", Identity(3, 4), 5.5
    )
    written = MeshState("ab", "running", Identity(1, 2), (1, 2), ("p-",), (part,))
    assert state_file.load(tmp_path) is None
    state_file.save(tmp_path, written)
    assert state_file.load(tmp_path) == written
    (tmp_path / state_file.NAME).write_text("{}")
    with pytest.raises(ConfigError, match=r"state\.json"):
        state_file.load(tmp_path)
