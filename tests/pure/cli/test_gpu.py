import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sidecar.cli.main import app
from sidecar.gpu.api import ALL
from sidecar.gpu.nvml import Nvml
from tests.support.nvml_player import Player

pytestmark = pytest.mark.files

RUNNER = CliRunner(env={"COLUMNS": "200"})


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Player:
    """A driver that answers as recorded, in this process."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("NVIDIA_VISIBLE_DEVICES", raising=False)
    player = Player.of(request.param)
    monkeypatch.setitem(sys.modules, "pynvml", player)
    return player


@pytest.mark.parametrize("nvml", ["h100-healthy"], indirect=True)
def test_it_prints_a_table_and_the_findings(nvml: Player) -> None:
    result = RUNNER.invoke(app, ["gpu"])
    assert result.exit_code == 0
    assert "driver 560.35.03" in result.output
    assert "NVIDIA H100 80GB HBM3" in result.output
    assert "OK" in result.output
    assert "2 GPUs" in result.output


@pytest.mark.parametrize("nvml", ["no-driver"], indirect=True)
def test_without_a_gpu_it_says_so_in_one_line_and_exits_with_0(nvml: Player) -> None:
    result = RUNNER.invoke(app, ["gpu"])
    assert result.exit_code == 0
    [line] = result.output.splitlines()
    assert line.startswith("GPU: unavailable: NVML: ")


@pytest.mark.parametrize("nvml", ["row-remap-failed"], indirect=True)
def test_a_critical_finding_sets_the_exit_status(nvml: Player) -> None:
    result = RUNNER.invoke(app, ["gpu"])
    assert result.exit_code == 1
    assert "GPU_ROW_REMAP_FAILED" in result.output


@pytest.mark.parametrize("nvml", ["throttled"], indirect=True)
def test_a_warning_does_not_set_the_exit_status(nvml: Player) -> None:
    result = RUNNER.invoke(app, ["gpu"])
    assert result.exit_code == 0
    assert "GPU_THROTTLED" in result.output


@pytest.mark.parametrize("nvml", ["h100-healthy"], indirect=True)
def test_a_recording_can_be_replayed(nvml: Player, tmp_path: Path) -> None:
    path = tmp_path / "recording.json"
    result = RUNNER.invoke(app, ["gpu", "--record", str(path), "--rounds", "2", "--interval", "0"])
    assert result.exit_code == 0
    rounds = json.loads(path.read_text())["rounds"]
    assert len(rounds) == 2
    assert Nvml(ALL, Player(rounds)).read() == Nvml(ALL, Player.of("h100-healthy")).read()


@pytest.mark.parametrize("nvml", ["no-driver"], indirect=True)
def test_the_absence_of_a_driver_is_recorded_too(nvml: Player, tmp_path: Path) -> None:
    path = tmp_path / "recording.json"
    assert RUNNER.invoke(app, ["gpu", "--record", str(path)]).exit_code == 0
    assert json.loads(path.read_text())["rounds"] == [
        {"nvmlInit()": {"error": "NVML_ERROR_LIBRARY_NOT_FOUND"}}
    ]


@pytest.mark.parametrize("nvml", ["no-driver"], indirect=True)
@pytest.mark.parametrize(
    "arguments",
    [
        ["--devices", "first"],
        ["--devices", ""],
        ["--devices", "0,"],
        ["--record", "/nonexistent/folder/file.json"],
        ["--config", "/nonexistent.toml"],
    ],
)
def test_a_mistake_is_reported(nvml: Player, arguments: list[str]) -> None:
    result = RUNNER.invoke(app, ["gpu", *arguments])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert arguments[1] in line


@pytest.mark.parametrize("nvml", ["no-driver"], indirect=True)
def test_a_full_disk_is_not_a_usage_error(nvml: Player) -> None:
    result = RUNNER.invoke(app, ["gpu", "--record", "/dev/full"])
    assert result.exit_code == 1
    assert result.stderr == "triton-sidecar: --record: /dev/full: No space left on device\n"


HEAD = '[triton]\nmodels = ["m"]\ncanaries = ["not/yet/*.toml"]\n'


@pytest.mark.parametrize("nvml", ["throttled"], indirect=True)
def test_the_sidecars_settings_apply(nvml: Player, tmp_path: Path) -> None:
    path = tmp_path / "sidecar.toml"
    path.write_text(f'{HEAD}[gpu]\nmemory_failure = "100%"\n')
    result = RUNNER.invoke(app, ["gpu", "--config", str(path)])
    assert result.exit_code == 1
    assert "GPU_MEMORY_EXHAUSTED" in result.output


@pytest.mark.parametrize("nvml", ["no-driver"], indirect=True)
def test_a_missing_required_gpu_is_reported(nvml: Player, tmp_path: Path) -> None:
    path = tmp_path / "sidecar.toml"
    path.write_text(f'{HEAD}[gpu]\nenabled = "required"\n')
    assert RUNNER.invoke(app, ["gpu", "--config", str(path)]).exit_code == 1


@pytest.mark.parametrize("nvml", ["h100-healthy"], indirect=True)
def test_flags_override_the_settings(nvml: Player, tmp_path: Path) -> None:
    path = tmp_path / "sidecar.toml"
    path.write_text(f'{HEAD}[gpu]\nenabled = "off"\ndevices = [5]\n')
    lost = RUNNER.invoke(app, ["gpu", "--config", str(path)])
    assert lost.exit_code == 1
    assert 'gpu.enabled is "off"' in lost.output
    found = RUNNER.invoke(app, ["gpu", "--config", str(path), "--devices", "0"])
    assert found.exit_code == 0
    assert "1 GPU" in found.output
