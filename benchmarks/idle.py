"""The CPU and memory of an idle mesh's own processes, and their startup time.

Memory and CPU time of the parts of a real mesh without load, the sidecar probing three models
every second; of the sidecar also with one model and with twenty; the time from the start of a
sidecar next to a running Triton to its first PASSING; the time that `triton-sidecar --help` takes.
Exit status 1 if a sidecar never reported SERVING.
"""

import argparse
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks import report
from benchmarks.report import spread
from sidecar.local import assets
from sidecar.local.meshfile import Mesh
from sidecar.local.planning import ports
from sidecar.runtime.errors import Unavailable

_HELPS = 15
_STARTS = 6
_WARM_UP = 10.0  # idle seconds before the measured ones
_IDLE = 30.0
_PATIENCE = 60.0
_MODEL = "tinychat_unary"  # the model that is copied
_MANY = 20
_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    # Nothing listens at first, and the back-off of gRPC must not be measured.
    ("grpc.initial_reconnect_backoff_ms", 5),
    ("grpc.min_reconnect_backoff_ms", 5),
    ("grpc.max_reconnect_backoff_ms", 5),
)


class Usage(NamedTuple):
    """A process's resident and peak memory in bytes, and its CPU seconds."""

    resident: int
    peak: int
    processor: float


def usage(pid: int) -> Usage:
    """The usage of a process, from /proc."""
    folder = Path("/proc", str(pid))
    lines = (folder / "status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    # Fields are counted after the name, which is in parentheses and may contain spaces.
    fields = (folder / "stat").read_text().rpartition(") ")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return Usage(
        resident=int(status["VmRSS"].split()[0]) * 1024,
        peak=int(status["VmHWM"].split()[0]) * 1024,
        processor=ticks / os.sysconf("SC_CLK_TCK"),
    )


class Took(NamedTuple):
    """Wall-clock seconds, and CPU seconds, which depend less on other processes."""

    clock: float
    processor: float


def helps() -> tuple[list[Took], list[Took]]:
    """The times of an empty Python program and of `triton-sidecar --help`, in turns."""
    nothing, ours = [], []
    for _ in range(_HELPS):
        nothing.append(_run("-c", "pass"))
        ours.append(_run("-m", "sidecar", "--help"))
    return nothing, ours


def _run(*arguments: str) -> Took:
    before, began = _children(), time.monotonic()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return Took(time.monotonic() - began, _children() - before)


def _children() -> float:
    """CPU seconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def start(mesh: Mesh, number: int) -> Took:
    """The time from the start of another sidecar next to a Triton to its first SERVING.

    Raises:
        Unavailable: it never reported SERVING.
    """
    config = mesh.dir / mesh.instances[0].id / "sidecar.toml"
    with ports.reserve(2) as (port, metrics):
        changes = {
            "service.name": "bench",
            "service.id": f"bench-{number}",
            "listen.grpc": f"127.0.0.1:{port}",
            "listen.metrics": f"127.0.0.1:{metrics}",
        }
        flags = [flag for key, value in changes.items() for flag in ("--set", f"{key}={value}")]
        command = [sys.executable, "-m", "sidecar", "run", "--config", str(config), *flags]
        log = (mesh.dir / "logs" / "bench.log").open("ab")
        with log, grpc.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS) as channel:
            began = time.monotonic()
            child = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                _until_serving(channel)
                return Took(time.monotonic() - began, usage(child.pid).processor)
            finally:
                child.send_signal(signal.SIGTERM)
                child.wait()


def _until_serving(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    watch = stub.Watch(
        health_pb2.HealthCheckRequest(service=""), wait_for_ready=True, timeout=_PATIENCE
    )
    try:
        for said in watch:
            if said.status == health_pb2.HealthCheckResponse.SERVING:
                watch.cancel()
                return
    except grpc.RpcError as error:
        raise Unavailable(f"never SERVING: {error}") from error


def idle(mesh: Mesh) -> list[tuple[str, ...]]:
    """Rows of the table: the usage of each part."""
    [instance] = mesh.instances
    parts = {
        "sidecar": instance.sidecar.pid,
        "control plane": mesh.xds.pid,
        "next to them: Envoy": mesh.envoy.pid,
        "  Consul": mesh.consul.pid,
        "  Triton, without its models' processes": instance.triton.pid,
    }
    pids = {name: pid for name, pid in parts.items() if pid is not None}
    before = {name: usage(pid).processor for name, pid in pids.items()}
    began = time.monotonic()
    time.sleep(_IDLE)
    seconds = time.monotonic() - began
    return [
        (
            name,
            f"{found.resident / 1e6:.0f} MB",
            f"{found.peak / 1e6:.0f} MB",
            f"{(found.processor - before[name]) / seconds:.2%}",
        )
        for name, found in ((name, usage(pid)) for name, pid in pids.items())
    ]


def timed(name: str, samples: Sequence[Took]) -> tuple[str, ...]:
    """A line of the table of times."""
    clock, processor = zip(*samples, strict=True)
    return name, str(len(samples)), spread(clock), spread(processor)


def measure(mesh: Mesh) -> None:
    """Measure and print everything."""
    nothing, ours = helps()
    ratio = statistics.median(took.clock for took in ours) / statistics.median(
        took.clock for took in nothing
    )
    report.table(
        "From the start of a process to …",
        ("least / median / largest in ms", "samples", "by the clock", "CPU time"),
        timed("python -c pass: its end (baseline)", nothing),
        timed("python -m sidecar --help: its end", ours),
        timed(
            "triton-sidecar run next to a Triton: PASSING",
            [start(mesh, number) for number in range(_STARTS)],
        ),
        note=f"--help takes {ratio:.1f} times the baseline",
    )
    time.sleep(_WARM_UP)
    report.table(
        f"Idle for {_IDLE:g} s, the sidecar probing 3 models every second",
        ("", "resident", "peak", "of a core"),
        *idle(mesh),
    )


def with_models(count: int) -> tuple[str, ...]:
    """A row of the table: the usage of a sidecar with `count` models."""
    with (
        copies(count) as folders,
        report.mesh(1, "--only-models", *(f"--models={folder}" for folder in folders)) as mesh,
    ):
        time.sleep(_WARM_UP)
        _, *taken = idle(mesh)[0]
        return f"{count} model{'s' if count > 1 else ''}", *taken


@contextmanager
def copies(count: int) -> Iterator[list[Path]]:
    """Folders with copies of a demo model, each with its own name and one process."""
    original = assets.folder("triton_models") / _MODEL
    with tempfile.TemporaryDirectory(prefix="triton-sidecar-bench-") as place:
        folders = [Path(place, f"copy_{number}") for number in range(count)]
        for folder in folders:
            shutil.copytree(original, folder, ignore=shutil.ignore_patterns("__*__"))
            canary, config = folder / "canary.toml", folder / "config.pbtxt"
            canary.write_text(
                canary.read_text().replace(f"canary.{_MODEL}", f"canary.{folder.name}")
            )
            config.write_text(config.read_text().replace("count: 2", "count: 1"))
        yield folders


def main() -> int:
    """Run the benchmark; returns the exit status."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    report.begin("What the mesh's own processes take")
    with report.mesh(instances=1) as mesh:
        measure(mesh)
    report.table(
        f"The sidecar, idle for {_IDLE:g} s, probing copies of {_MODEL} every second",
        ("next to", "resident", "peak", "of a core"),
        *(with_models(count) for count in (1, _MANY)),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
