"""A real Triton without a mesh, with its own models and ports."""

import asyncio
import os
import shutil
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sidecar.local.planning.plan import Part, Probe
from sidecar.local.planning.ports import reserve
from sidecar.local.processes.identity import MARK
from sidecar.local.processes.process import Process
from sidecar.local.programs import parts

_ROOT = Path(__file__).resolve().parents[2]
_PLACES = (_ROOT / "tests" / "support" / "triton_models", _ROOT / "triton_models")


# The Python backend's shared memory fails rarely, when a Triton starts on a busy machine.
_CRASH = "boost::interprocess::lock_exception"


class TritonServer:
    """A Triton with some of the models of `tests/support/triton_models` and `triton_models`."""

    def __init__(self, part: Part, http: str) -> None:
        self._part, self.folder = part, part.cwd
        self.process = Process(part)
        self.grpc, self.http = part.address, http

    @classmethod
    @contextmanager
    def running(
        cls, folder: Path, *models: str, options: Sequence[str] = ()
    ) -> Iterator["TritonServer"]:
        """Run a server during the context; it leaves nothing behind.

        `options` are more options of tritonserver.

        Raises:
            TimeoutError: it is not ready within two minutes; the end of its log is in the message.
        """
        with reserve(2) as (grpc, http):
            part = _part(folder, models, grpc, http, options)
            server = cls(part, f"127.0.0.1:{http}")
            try:
                server._start()
                yield server
            finally:
                server.process.kill()
                asyncio.run(_reap(server.process))

    async def ended(self) -> int:
        """Wait for its end; returns its exit status, or the signal that killed it."""
        how = os.WEXITED | os.WNOWAIT  # it is reaped at the end of the context, with its children
        found = await asyncio.to_thread(os.waitid, os.P_PID, self.process.pid, how)
        assert found is not None
        return found.si_status

    def _start(self) -> None:
        """Wait until it serves; a crash for a known reason is retried."""
        try:
            self._wait()
        except TimeoutError as error:
            if _CRASH not in str(error):
                raise
            self.process.kill()
            asyncio.run(_reap(self.process))
            self.process = Process(self._part)
            self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + 120
        while not self._ready():
            if time.monotonic() > until or self.process.identity is None:
                raise TimeoutError(self._part.log.read_text()[-3000:])
            time.sleep(0.1)

    def _ready(self) -> bool:
        try:
            url = f"http://{self.http}/v2/health/ready"
            with urllib.request.urlopen(url, timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


async def _reap(process: Process) -> None:
    await process.wait()


def _part(
    folder: Path, models: tuple[str, ...], grpc: int, http: int, options: Sequence[str]
) -> Part:
    triton = parts.triton()
    for model in models:
        source = next(place / model for place in _PLACES if (place / model).is_dir())
        target = folder / "models" / model
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__*__"))
    (folder / "backends").symlink_to(triton.backends)
    prefix = f"triton-sidecar-test-{os.getpid()}-{grpc}-"
    return Part(
        name="triton",
        kind="triton",
        argv=(
            str(triton.binary),
            # Relative, as in a local mesh: the Python backend does not support spaces in paths.
            "--model-repository=models",
            "--backend-directory=backends",
            "--model-control-mode=explicit",
            *(f"--load-model={model}" for model in models),
            "--grpc-address=127.0.0.1",
            f"--grpc-port={grpc}",
            "--http-address=127.0.0.1",
            f"--http-port={http}",
            "--allow-metrics=false",
            f"--backend-config=python,shm-region-prefix-name={prefix}",
            "--exit-timeout-secs=1",
            "--log-info=false",
            *options,
        ),
        env=triton.environment({**os.environ, MARK: prefix}),
        cwd=folder,
        log=folder / "triton.log",
        address=f"127.0.0.1:{grpc}",
        probe=Probe("tcp", f"127.0.0.1:{grpc}"),
        shm_prefix=prefix,
    )
