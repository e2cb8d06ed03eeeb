import socket
from pathlib import Path

import pytest

from sidecar.local import launch
from sidecar.local.planning import ports
from sidecar.local.planning.plan import MeshOptions, Ports
from sidecar.local.processes import cleanup
from sidecar.local.processes.runner import StartFailed
from sidecar.runtime.errors import ConfigError
from tests.support.local_plan import nothing


@pytest.fixture(autouse=True)
def _no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "find_programs", lambda: None)
    monkeypatch.setattr(launch, "read_sources", lambda _: None)


def test_a_port_taken_by_another_process_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[Ports] = []
    with socket.socket() as stranger:

        def run(options: MeshOptions, drawn: Ports, *_: object) -> None:
            attempts.append(drawn)
            if len(attempts) == 1:
                stranger.bind(("127.0.0.1", drawn.envoy))
                stranger.listen()
                raise StartFailed("envoy", "exited with code 1")

        monkeypatch.setattr(launch, "_run", run)
        launch.up(MeshOptions(tmp_path), nothing)
    first, second = attempts
    assert first.envoy not in second.all


def test_a_failure_for_another_reason_than_a_taken_port_is_not_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = 0

    def run(*_: object) -> None:
        nonlocal attempts
        attempts += 1
        (tmp_path / "logs").mkdir()
        (tmp_path / "logs" / "xds.log").write_text("first\nthe reason\n")
        raise StartFailed("xds", "broke")

    monkeypatch.setattr(launch, "_run", run)
    with pytest.raises(StartFailed) as raised:
        launch.up(MeshOptions(tmp_path), nothing)
    assert attempts == 1
    assert raised.value.part == "xds"
    message = str(raised.value)
    assert message.startswith("xds: broke\n")
    assert message.endswith("  | the reason")
    assert not cleanup.is_claimed(tmp_path)


def test_ports_are_drawn_while_the_claim_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(ports, "reserve")
    cleanup.prepare(tmp_path)
    with cleanup.claim(tmp_path), pytest.raises(ConfigError, match="running there already"):
        launch.up(MeshOptions(tmp_path), nothing)
