"""Whether Consul Connect can be measured: whether Envoy takes what this Consul writes for it."""

import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from sidecar.local.programs import parts

_ASKED = r"""
ip link set lo up
"$CONSUL" agent -dev -log-level=err -config-file=service.json > agent.log 2>&1 &
agent=$!
trap 'kill $agent' EXIT
for _ in $(seq 60); do
    "$CONSUL" connect envoy -bootstrap -sidecar-for=triton -grpc-addr=http://127.0.0.1:8502 \
        > bootstrap.json 2> why && break
    sleep 0.5
done
[ -s bootstrap.json ] || { cat agent.log why >&2; exit 1; }
"$ENVOY" --mode validate -c bootstrap.json
"""
_SERVICE = '{"service": {"name": "triton", "port": 8001, "connect": {"sidecar_service": {}}}}'
_DEADLINE = 120.0
_SHOWN = 130  # characters of what Envoy says


@cache
def unfit() -> str:
    """Why they cannot be measured; empty if they can.

    Raises:
        PartMissing: Consul or Envoy is not here.
    """
    consul, envoy = parts.find("consul"), parts.find("envoy")
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
    if not done.returncode:
        return ""
    said = " ".join((done.stderr.strip() or "no reason given").splitlines()[-1].split())
    said = said.rpartition("): ")[2].partition(")")[0]  # around it is where it is
    return (
        "Envoy rejects the bootstrap that `consul connect envoy` of Consul "
        f"{parts.consul_release(consul)} writes ({said[-_SHOWN:]})"
    )
