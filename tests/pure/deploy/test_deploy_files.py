"""The deployment files agree with each other, and the validator notices when they do not."""

import configparser
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sidecar.cli.exit_status import ExitStatus
from sidecar.lifecycle import stop_timeout_problem
from sidecar.settings import load_sidecar
from sidecar.settings.values import parse_duration
from tests.checks import validate_deploy
from tests.support.deploy_files import ROOT, change
from tests.support.deploy_files import files as files

pytestmark = pytest.mark.files
UNITS = ROOT / "deploy" / "systemd"
SIDECARS = ("triton-sidecar.service", "triton-sidecar@.service")
TRITONS = ("tritonserver.service", "tritonserver@.service")
OWN = {
    "ExecStart": "",
    "ExecReload": "",
    "RuntimeDirectory": "",
}  # what only one of the two forms has
Check = Callable[[], Iterator[str]]


@pytest.mark.parametrize(
    "check",
    [
        validate_deploy.policies,
        validate_deploy.jobs,
        validate_deploy.settings,
        validate_deploy.ports,
    ],
)
def test_the_deployment_files_are_valid(check: Check) -> None:
    assert list(check()) == []


JOB = "deploy/nomad/triton.nomad.hcl"
DRILL = "deploy/nomad/drill.nomad.hcl"
BROKEN = [
    (
        validate_deploy.policies,
        "consul/policies/sidecar.hcl",
        "key_prefix",
        "keys",
        "keys: expected",
    ),
    (validate_deploy.policies, "consul/policies/sidecar.hcl", '"write"', '"wirte"', '"read" or'),
    (validate_deploy.policies, "consul/policies/operator.hcl", "{", "", "expected HCL 2"),
    (validate_deploy.jobs, JOB, "group ", "group {", "expected HCL 2"),
    (validate_deploy.jobs, JOB, "leader = true", "laeder = true", "laeder: expected one of"),
    (validate_deploy.jobs, JOB, "leader = true", "", "expected one task with leader"),
    (validate_deploy.jobs, JOB, '"SIGTERM"', '"SIGINT"', "sidecar > kill_signal"),
    (validate_deploy.jobs, JOB, '"30s"', '"20s"', "more than drain.timeout"),
    (validate_deploy.jobs, JOB, '"30s"', '"31s"', "at most 30 s"),
    (validate_deploy.jobs, JOB, '= "delay"', '= "fail"', 'restart > mode: expected "delay"'),
    (
        validate_deploy.jobs,
        JOB,
        'driver = "exec"\n',
        'driver = "exec"\nrestart {\nmode = "fail"\n}\n',
        "task sidecar: expected no restart block",
    ),
    (validate_deploy.jobs, JOB, "restart {", "retsart {", "retsart: expected one of"),
    (validate_deploy.jobs, DRILL, "attempts = 0", "attempts = 3", "restart > attempts: expected 0"),
    (validate_deploy.jobs, DRILL, "prohibit_overlap = true", "", "prohibit_overlap: expected true"),
    (validate_deploy.jobs, JOB, "models = [", "model = [", "triton.model"),
    (
        validate_deploy.jobs,
        JOB,
        "[canary.tinychat_unary]",
        "[canary.other]",
        "canary.other",
    ),
    (validate_deploy.settings, "deploy/config/xds.toml", "services", "service", "xds.service"),
    (
        validate_deploy.ports,
        "deploy/config/xds.toml",
        '0:10000"',
        '0:8001"',
        "envoy.listen: expected another port than that of triton-0.env > GRPC_PORT: 8001",
    ),
    (
        validate_deploy.ports,
        "deploy/config/triton-0.env",
        "GRPC_PORT=8001",
        "GRPC_PORT=8011",
        "sidecar.toml > triton.grpc: expected triton-0.env > GRPC_PORT: 8011",
    ),
]


@pytest.mark.parametrize(("check", "file", "old", "new", "message"), BROKEN)
def test_an_invalid_deployment_file_is_reported(
    files: Path, check: Check, file: str, old: str, new: str, message: str
) -> None:
    change(files / file, old, new)
    problems = list(check())
    assert any(message in problem for problem in problems), problems


def read_unit(name: str) -> configparser.RawConfigParser:
    unit = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",))
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string((UNITS / name).read_text())
    return unit


@pytest.mark.parametrize("name", SIDECARS)
def test_systemd_waits_longer_than_the_drain(name: str) -> None:
    drain = load_sidecar(ROOT / "deploy/config/sidecar.toml").drain.timeout
    # Withdrawal, release of the lock and deregistration have separate deadlines.
    assert parse_duration(read_unit(name)["Service"]["TimeoutStopSec"]) >= drain + 20


@pytest.mark.parametrize("name", [*SIDECARS, "triton-sidecar-xds.service"])
def test_systemd_does_not_restart_after_a_usage_error(name: str) -> None:
    service = read_unit(name)["Service"]
    assert service["Restart"] == "always"
    assert int(service["RestartPreventExitStatus"]) == ExitStatus.MISTAKE


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        *((name, 1) for name in (*SIDECARS, "triton-sidecar-xds.service", "envoy.service")),
        *((name, 2) for name in TRITONS),
    ],
)
def test_systemd_always_restarts_after_a_pause(name: str, seconds: float) -> None:
    unit = read_unit(name)
    assert unit["Service"]["Restart"] == "always"
    assert parse_duration(f"{unit['Service']['RestartSec']}s") == seconds
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"


@pytest.mark.parametrize(("name", "triton"), [*zip(SIDECARS, TRITONS, strict=True)])
def test_the_sidecar_is_stopped_before_its_triton_and_before_consul(name: str, triton: str) -> None:
    """How systemd applies it: tests/integration/deploy/test_systemd_units.py."""
    after = read_unit(name)["Unit"]["After"].replace("%i", "").split()
    assert {triton, "consul.service"} <= set(after)
    service = read_unit(triton)["Service"]
    assert service["ExecStop"].endswith(f"exec systemctl stop {name.replace('@', '@%i')};; esac'")
    runtime = read_unit(name)["Service"]["RuntimeDirectory"]
    assert f"-e /run/{runtime}/recovering " in service["ExecStop"]
    # Stopping Triton has to wait for the drain.
    stops = [read_unit(unit)["Service"]["TimeoutStopSec"] for unit in (name, triton)]
    assert parse_duration(stops[0]) < parse_duration(stops[1])
    assert f"\nEnvironment=TRITON_STOP_TIMEOUT={stops[1]}\n" in (UNITS / name).read_text()
    drain = load_sidecar(ROOT / "deploy/config/sidecar.toml").drain.timeout
    assert not stop_timeout_problem(drain, {"TRITON_STOP_TIMEOUT": stops[1]})


def test_envoy_has_time_to_drain_and_its_hook_uses_the_address_of_the_admin_interface() -> None:
    service = read_unit("envoy.service")["Service"]
    drain = re.search(r"xds drain (\S+) --pause (\w+) --timeout (\w+)", service["ExecStop"])
    assert drain
    assert parse_duration(drain[2]) + parse_duration(drain[3]) < parse_duration(
        f"{service['TimeoutStopSec']}s"
    )
    bootstrap = (ROOT / "envoy/bootstrap.yaml").read_text()
    host, port = drain[1].split(":")
    assert f"{{ address: {host}, port_value: {port} }}" in bootstrap


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        *((name, "stop") for name in TRITONS),
        *((name, "continue") for name in (*SIDECARS, "envoy.service")),
    ],
)
def test_the_oom_killer_stops_a_unit_only_where_the_rest_is_useless(name: str, policy: str) -> None:
    """A Triton without one of its stubs is stopped; the table in systemd.md says what follows."""
    assert read_unit(name)["Service"]["OOMPolicy"] == policy


def test_both_forms_of_triton_start_with_the_same_options() -> None:
    one, many = (dict(read_unit(name)["Service"]) for name in TRITONS)
    for name, value in one.items():
        other = many[name].replace("@%i", "")
        for own in ("/main", "_main_"):
            value = value.replace(own, own.replace("main", "%i"))
        assert value.replace("triton.env", "%i.env") == other, name
    assert many.keys() - one.keys() == {"User"}


def test_both_forms_of_the_sidecar_start_with_the_same_options() -> None:
    one, many = (read_unit(name)["Service"] for name in SIDECARS)
    assert dict(one) | OWN == dict(many) | OWN


def test_sidecar_and_control_plane_have_the_same_sandbox() -> None:
    def sandbox(name: str) -> list[str]:
        text = (UNITS / name).read_text()
        lines = text[text.index("DynamicUser") : text.index("[Install]")].splitlines()
        return [line for line in lines if "Device" not in line]  # the sidecar queries NVML

    assert sandbox("triton-sidecar.service") == sandbox("triton-sidecar-xds.service")


def test_triton_has_the_same_ping_settings_everywhere() -> None:
    """Also in the local mesh, in which the tests run."""
    units = (f"deploy/systemd/{name}" for name in TRITONS)
    for file in (*units, JOB, "deploy/README.md", "README.md", "sidecar/local/planning/layout.py"):
        found = re.findall(r"--grpc-(?:http2|keepalive)[\w-]+=\d+", (ROOT / file).read_text())
        assert set(found) == {"--grpc-http2-max-ping-strikes=0"}, file
