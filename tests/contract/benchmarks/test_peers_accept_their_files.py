"""Each proxy accepts the configuration that benchmarks/peers gives it."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.peers import connect, programs
from benchmarks.peers.design import CONNECT, DESIGNS, FOLDER, OURS, Design
from sidecar.local.programs import parts
from sidecar.runtime.errors import PartMissing

pytestmark = pytest.mark.soak  # the programs are fetched, which takes a while

_NAMESPACE = ("unshare", "--net", "sh", "-c")
_CHECKS: Mapping[str, str] = {
    "nginx": "{nginx} -t -p . -e stderr -c nginx.conf",
    "haproxy": "{haproxy} -c -f haproxy.cfg",
    "keepalived": (
        "ip link add data type bridge && ip link set data up && {keepalived} -t -f keepalived.conf"
    ),
    "caddy": "{caddy} validate --config Caddyfile --adapter caddyfile",
    "envoy": "{envoy} --mode validate -c envoy.yaml",
    "consul": (
        'printf \'{{"data_dir": "/", "bind_addr": "127.0.0.1"}}\' > here.json && '
        "{consul} validate here.json agent.json triton.json clients.json && "
        "printf '{{\"server\": true}}' > there.json && "
        "{consul} validate here.json there.json server.json"
    ),
}


@pytest.fixture(scope="module")
def commands() -> Mapping[str, Path]:
    try:
        return {**programs.provide(), "envoy": parts.find("envoy"), "consul": parts.find("consul")}
    except PartMissing as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    "design", [one for one in DESIGNS if not one.ours], ids=lambda design: design.name
)
def test_a_program_accepts_its_configuration(
    design: Design, commands: Mapping[str, Path], tmp_path: Path
) -> None:
    if design.peer == CONNECT and (why := connect.unfit()):
        pytest.skip(why)
    folder = tmp_path / "design"
    shutil.copytree(FOLDER / design.name, folder)
    (folder / "temp").mkdir()
    for path in folder.iterdir():
        if path.is_file():
            path.write_text(path.read_text().replace("/etc/keepalived", str(folder)))
    program = design.processes[0].argv[0]
    command = _CHECKS[program].format(**commands)
    done = subprocess.run(
        [*_NAMESPACE, command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "design",
    [one for one in DESIGNS if one.consul and one.peer not in (CONNECT, OURS)],
    ids=lambda design: design.name,
)
def test_consul_accepts_what_its_agents_read(design: Design, tmp_path: Path) -> None:
    here = tmp_path / "here.json"
    here.write_text('{"data_dir": "/"}')
    own = sorted((FOLDER / design.name).glob("*.json"))
    consul = parts.find("consul")
    done = subprocess.run(
        [consul, "validate", "-config-format=json", here, *own],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "script", sorted(FOLDER.rglob("*.sh")), ids=lambda path: str(path.relative_to(FOLDER))
)
def test_a_shell_accepts_a_script(script: Path) -> None:
    done = subprocess.run(["sh", "-n", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
