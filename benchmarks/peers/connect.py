"""Whether Consul Connect can be measured: whether Envoy takes what this Consul writes for it."""

import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from sidecar.local.programs import parts
from sidecar.runtime.errors import PartMissing

_DEADLINE = 120.0
_REJECTED = 3  # the exit status if Envoy has said no; any other is a failure before that
_ASKED = rf"""
ip link set lo up || exit 1
timeout {_DEADLINE:g} "$CONSUL" agent -dev -log-level=err -config-file=service.json \
    > agent.log 2>&1 &
agent=$!
trap 'kill $agent 2> /dev/null' EXIT
for _ in $(seq 60); do
    "$CONSUL" connect envoy -bootstrap -sidecar-for=triton -grpc-addr=http://127.0.0.1:8502 \
        > bootstrap.json 2> why && break
    kill -0 $agent 2> /dev/null || break
    sleep 0.5
done
[ -s bootstrap.json ] || {{ cat why agent.log >&2; exit 1; }}
"$ENVOY" --mode validate -c bootstrap.json || exit {_REJECTED}
"""
_SERVICE = '{"service": {"name": "triton", "port": 8001, "connect": {"sidecar_service": {}}}}'
_SHOWN = 130  # characters of what Envoy says


@cache
def unfit() -> str:
    """Why Envoy does not take it; empty if it does.

    Raises:
        PartMissing: Envoy could not be asked: a program is not here, no namespace can be had, or
            Consul does not start or writes nothing.
    """
    consul, envoy = parts.find("consul"), parts.find("envoy")
    try:
        status, said = _ask(consul, envoy)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PartMissing(f"Consul Connect cannot be tried: {error}") from error
    if not status:
        return ""
    line = " ".join((said.strip() or "no reason given").splitlines()[-1].split())
    if status != _REJECTED:
        raise PartMissing(f"Consul Connect cannot be tried: {line[-_SHOWN:]}")
    line = line.rpartition("): ")[2].partition(")")[0]  # around it is where it is
    return (
        "Envoy rejects the bootstrap that `consul connect envoy` of Consul "
        f"{parts.consul_release(consul)} writes ({line[-_SHOWN:]})"
    )


def _ask(consul: Path, envoy: Path) -> tuple[int, str]:
    """The exit status, and what was said."""
    inside = ("unshare", *(("--user", "--map-root-user") if os.geteuid() else ()), "--net")
    with tempfile.TemporaryDirectory(prefix="triton-sidecar-connect-") as folder:
        (Path(folder) / "service.json").write_text(_SERVICE)
        done = subprocess.run(
            (*inside, "sh", "-c", _ASKED),
            cwd=folder,
            env={"PATH": os.environ["PATH"], "CONSUL": str(consul), "ENVOY": str(envoy)},
            capture_output=True,
            text=True,
            timeout=_DEADLINE,
            check=False,
        )
    return done.returncode, done.stderr
