"""A real Consul agent for tests: in development mode, on ports and in a folder of its own."""

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from sidecar.local.parts import find
from sidecar.local.ports import reserve


class ConsulAgent:
    """Started by `start`, on the same ports each time; `stop` leaves nothing behind."""

    def __init__(self, folder: Path, ports: Sequence[int], more: Mapping[str, Any]) -> None:
        self._folder = folder
        self._ports = dict(zip(("http", "serf_lan", "server", "serf_wan"), ports, strict=True))
        self._more = more
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def running(cls, folder: Path, **more: Any) -> Iterator[Self]:
        """An agent that runs while the context lasts; `more` are settings of it."""
        with reserve(4) as ports:
            agent = cls(folder, ports, more)
            agent.start()
            try:
                yield agent
            finally:
                agent.stop()

    @property
    def http(self) -> str:
        return f"127.0.0.1:{self._ports['http']}"

    @property
    def wan(self) -> str:
        """Where agents of other datacenters join it."""
        return f"127.0.0.1:{self._ports['serf_wan']}"

    def start(self) -> None:
        """Start the agent and wait until it has a leader.

        Raises:
            TimeoutError: it has none after a minute; its log is in the message.
        """
        ports = self._ports | {"dns": -1, "grpc": -1}
        settings: dict[str, Any] = {
            "node_name": "node",
            "ports": ports,
            "check_update_interval": "0s",
        }
        settings |= self._more
        (self._folder / "agent.json").write_text(json.dumps(settings))
        command = [str(find("consul")), "agent", "-dev", "-bind=127.0.0.1", "-log-level=warn"]
        with (self._folder / "agent.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, f"-config-file={self._folder / 'agent.json'}"],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while not self._settled():
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.stop()
                raise TimeoutError((self._folder / "agent.log").read_text()[-2000:])
            time.sleep(0.1)

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _settled(self) -> bool:
        """Whether the agent has a leader and has registered its own node."""
        try:
            url = f"http://{self.http}/v1/health/node/node"
            with urllib.request.urlopen(url, timeout=2) as answer:
                return bool(json.load(answer))
        except (OSError, ValueError):
            return False
