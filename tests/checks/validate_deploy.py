"""Validates the files in deploy/ and consul/: `python -m tests.checks.validate_deploy`.

Each file is validated by the program that will read it: Consul, our own settings, and the oldest
systemd that the units are tried on. Nomad is not available, so its jobs are parsed as HCL 2 and
compared with its specification.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from sidecar.local.programs.parts import find
from sidecar.runtime.errors import ConfigError, PartMissing
from sidecar.settings import load_sidecar, load_xds
from sidecar.settings.values import parse_duration
from tests.support import debian_root, jobspec
from tests.support.systemd import root

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CONSUL = ROOT / "consul"

_RESOURCES = {
    "agent", "agent_prefix", "event", "event_prefix", "key", "key_prefix", "node", "node_prefix",
    "query", "query_prefix", "service", "service_prefix", "session", "session_prefix",
}  # fmt: skip
# Nomad's default max_kill_timeout of clients.
_MAX_KILL_TIMEOUT = 30.0
_LOADERS: dict[str, Callable[[Path], object]] = {
    "sidecar.toml": load_sidecar,
    "xds.toml": load_xds,
    "drill.toml": load_sidecar,
}


def agent_files() -> Iterator[str]:
    """`consul validate` on each agent configuration."""
    consul = find("consul")
    for path in sorted(CONSUL.glob("*.hcl")):
        done = _run([str(consul), "validate", str(path)])
        if done.returncode:
            yield f"{_name(path)}: {_output(done)}"


def policies() -> Iterator[str]:
    """Syntax and resource names: Consul 1.8 accepts a misspelt resource, and it grants nothing."""
    for path in sorted((CONSUL / "policies").glob("*.hcl")):
        try:
            rules = jobspec.read_labelled(path)
        except ValueError as error:
            yield f"{_name(path)}: {error}"
            continue
        for kind, name, body in rules:
            if kind not in _RESOURCES:
                yield f"{_name(path)}: {kind}: expected one of {', '.join(sorted(_RESOURCES))}"
            if body.get("policy") not in {"read", "write"} or len(body) != 1:
                yield f'{_name(path)}: {kind} "{name}": expected policy = "read" or "write"'


def jobs() -> Iterator[str]:
    """Nomad jobs: syntax, keys, the stop order, and the embedded settings."""
    for path in sorted((DEPLOY / "nomad").glob("*.nomad.hcl")):
        try:
            file = jobspec.read(path)
        except ValueError as error:
            yield f"{_name(path)}: {error}"
            continue
        problems = [*jobspec.unknown_keys(file)]
        for job in file.inside("job"):
            for group in job.inside("group"):
                problems += stop_order(group)
                problems += once(job, group) if "periodic" in kinds(job) else restarts(group)
        for template in file.inside("template"):
            problems += template_settings(template)
        yield from (f"{_name(path)}: {problem}" for problem in problems)


def stop_order(group: jobspec.Block) -> Iterator[str]:
    """One leader, stopped by SIGTERM, with a kill_timeout above its drain's and within Nomad's."""
    leaders = [task.label for task in group.inside("task") if task.attributes.get("leader")]
    if len(leaders) != 1:
        yield f"group {group.label}: expected one task with leader = true, found {leaders}"
    for task in group.inside("task"):
        place = f"task {task.label} >"
        if task.attributes.get("kill_signal") != "SIGTERM":
            yield f'{place} kill_signal: expected "SIGTERM"; Nomad sends SIGINT otherwise'
        allowed = parse_duration(task.attributes.get("kill_timeout", "5s"))
        if allowed > _MAX_KILL_TIMEOUT:
            yield f"{place} kill_timeout: expected at most {_MAX_KILL_TIMEOUT:g} s, Nomad's limit"
        for template in task.inside("template"):
            drain = re.search(r"\[drain\]\s+timeout = (\S+)", str(template.attributes.get("data")))
            if drain and parse_duration(drain[1].strip('"')) >= allowed:
                yield f"{place} kill_timeout: expected more than drain.timeout, {drain[1]}"


def restarts(group: jobspec.Block) -> Iterator[str]:
    """Every task restarts forever, in place; otherwise all tasks end with the leader."""
    modes = [block.attributes.get("mode") for block in group.blocks if block.kind == "restart"]
    if modes != ["delay"]:
        yield f'group {group.label} > restart > mode: expected "delay", found {modes}'
    for task in group.inside("task"):
        if any(task.inside("restart")):
            yield f"task {task.label}: expected no restart block beside its group's"


def once(job: jobspec.Block, group: jobspec.Block) -> Iterator[str]:
    """What runs by a calendar is not repeated when it fails, and never runs twice at once."""
    tries = {block.kind: block.attributes.get("attempts") for block in (*job.blocks, *group.blocks)}
    for kind in ("restart", "reschedule"):
        if tries.get(kind) != 0:
            yield f"{kind} > attempts: expected 0 in a periodic job, found {tries.get(kind)}"
    overlap = [each.attributes.get("prohibit_overlap") for each in job.inside("periodic")]
    if overlap != [True]:
        yield f"periodic > prohibit_overlap: expected true, found {overlap}"


def kinds(block: jobspec.Block) -> set[str]:
    """The kinds of the blocks in a block."""
    return {each.kind for each in block.blocks}


def template_settings(template: jobspec.Block) -> Iterator[str]:
    """Validate the settings file that a template renders to, with the variables that Nomad sets."""
    target = Path(str(template.attributes["destination"])).name
    if target not in _LOADERS:
        return
    text = re.sub(r'\{\{ env "(\w+)" \}\}', _nomad_value, str(template.attributes["data"]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / target
        path.write_text(text, encoding="utf-8")
        try:
            _LOADERS[target](path)
        except ConfigError as error:
            yield f"template {target}: {str(error).replace(f'{folder}/', '')}"


def _nomad_value(variable: re.Match[str]) -> str:
    values = {"ADDR": "192.0.2.1:20000", "IP": "192.0.2.1", "PORT": "20000"}
    kind = variable[1].split("_")[1]
    return values.get(kind, "5d1d3e21-6f7c-4a5e-9b1d-0c7b1c1f2a3b")


def settings() -> Iterator[str]:
    """The example settings, loaded with the programs' own loaders."""
    for path in sorted((DEPLOY / "config").glob("*.toml")):
        try:
            _LOADERS[path.name](path)
        except ConfigError as error:
            yield str(error)


def ports() -> Iterator[str]:
    """All ports in the examples differ, because all programs may run on one machine."""
    sidecar = load_sidecar(DEPLOY / "config/sidecar.toml")
    plane = load_xds(DEPLOY / "config/xds.toml")
    environment = (DEPLOY / "config/triton-0.env").read_text(encoding="utf-8")
    triton = dict(re.findall(r"(?m)^(\w+_PORT)=(\d+)$", environment))
    listen = {
        "sidecar.toml > listen.grpc": sidecar.listen.grpc,
        "sidecar.toml > listen.metrics": sidecar.listen.metrics,
        "xds.toml > xds.listen": plane.xds.listen,
        "xds.toml > xds.metrics": plane.xds.metrics,
        "xds.toml > envoy.listen": plane.envoy.listen,
    }
    listen |= {f"xds.toml > envoy.admin[{i}]": each for i, each in enumerate(plane.envoy.admin)}
    holders = {port: f"triton-0.env > {name}" for name, port in triton.items()}
    for place, address in listen.items():
        if other := holders.get(_port(address)):
            yield f"{place}: expected another port than that of {other}: {_port(address)}"
        holders[_port(address)] = place
    for key, name in (("grpc", "GRPC_PORT"), ("metrics", "METRICS_PORT")):
        if _port(getattr(sidecar.triton, key)) != triton[name]:
            yield f"sidecar.toml > triton.{key}: expected triton-0.env > {name}: {triton[name]}"


def _port(address: str | None) -> str:
    return str(address).rpartition(":")[2]


def units() -> Iterator[str]:
    """`systemd-analyze verify`, with a root that has stand-ins for the programs of the units."""
    try:
        debian = root.provide(next(iter(root.SUITES)))
    except PartMissing as error:
        yield f"deploy/systemd: {error}"
        return
    with tempfile.TemporaryDirectory() as folder:
        names = _unit_root(Path(folder), debian)
        verify = ["verify", "--man=no", f"--root={folder}", *names]
        done = _run([*debian_root.program(debian, "systemd-analyze"), *verify])
        # An unknown key is only a warning there, and an error here.
        if done.returncode or _output(done):
            yield _output(done).replace(f"{folder}/etc/systemd/system", "deploy/systemd")


def _unit_root(made: Path, debian: Path) -> list[str]:
    """Lay out a root file system; returns the units to check, templates as instances."""
    system, others = made / "etc/systemd/system", "usr/lib/systemd/system"
    shutil.copytree(DEPLOY / "systemd", system)
    shutil.copytree(debian / others, made / others, symlinks=True)
    started = {"/bin/kill"}
    for path in system.iterdir():
        started |= set(re.findall(r"(?m)^Exec\w+=(/\S+)", path.read_text(encoding="utf-8")))
    for program in started:
        stand_in = made / program.lstrip("/")
        stand_in.parent.mkdir(parents=True, exist_ok=True)
        stand_in.write_text("#!/bin/sh\n")
        stand_in.chmod(0o755)
    return sorted(path.name.replace("@.", "@0.") for path in system.iterdir())


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def _output(done: subprocess.CompletedProcess[str]) -> str:
    # On success Consul prints a message to standard output, and systemd-analyze prints nothing.
    return (done.stderr.strip() or done.stdout.strip()) if done.returncode else done.stderr.strip()


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def main() -> int:
    """Print every problem; returns the exit status."""
    for variable in list(os.environ):
        if variable.startswith(("TRITON_SIDECAR_", "CONSUL_")) and variable != "CONSUL_BIN":
            del os.environ[variable]  # it would override the files
    checks = (agent_files, policies, jobs, settings, ports, units)
    problems = [problem for check in checks for problem in check()]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
