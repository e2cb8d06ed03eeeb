"""A real Consul agent in development mode, with its own ports and its own folder."""

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from sidecar.local.planning import agent_config
from sidecar.local.planning.ports import reserve
from sidecar.local.programs.parts import consul_version, find
from tests.support.consul_model import Generation

NODE, CLIENT = "node", "client"


def is_streamed(headers: Mapping[str, str]) -> bool:
    """Whether the agent answered a blocking health query from a view."""
    backend = headers.get("X-Consul-Query-Backend")
    # The first versions that stream do not say so; they name the ACL policy, as from 1.9 on.
    unmarked = backend is None and "X-Consul-Default-ACL-Policy" in headers
    return backend == "streaming" or (unmarked and headers.get("X-Consul-KnownLeader") == "false")


class ConsulAgent:
    """An agent that `start` starts, on the same ports each time; `stop` leaves nothing behind.

    It runs the Consul that was found, whatever its version; several may run at the same time.
    """

    def __init__(
        self,
        folder: Path,
        ports: Sequence[int],
        more: Mapping[str, Any],
        token: str = "",
        lan: str = "",
        node: str = "",
    ) -> None:
        self._folder = folder
        self._ports = dict(zip(("http", "serf_lan", "server", "serf_wan"), ports, strict=True))
        self._more = dict(more)
        self._token = token
        self._lan = lan
        self._node = node or (CLIENT if lan else NODE)
        self._program = find("consul")
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def running(
        cls,
        folder: Path,
        *,
        token: str = "",
        of: "ConsulAgent | str" = "",
        node: str = "",
        **more: Any,
    ) -> Iterator[Self]:
        """Run an agent during the context; `more` are its settings.

        If its ACLs deny by default, `token` must be able to read everything. The agent is a server
        without stored data, or a client `of` a server, given as an agent or by its gossip address.
        Nodes of one cluster need distinct names: `node`.
        """
        with reserve(4) as ports:
            lan = of.lan if isinstance(of, ConsulAgent) else of
            made = cls(folder, ports, more, token, lan, node)
            try:
                made.start()
                yield made
            finally:
                made.stop()

    @property
    def http(self) -> str:
        return f"127.0.0.1:{self._ports['http']}"

    @property
    def lan(self) -> str:
        """The address at which clients join it."""
        return f"127.0.0.1:{self._ports['serf_lan']}"

    @property
    def wan(self) -> str:
        """The address at which agents of other datacenters join it."""
        return f"127.0.0.1:{self._ports['serf_wan']}"

    @property
    def version(self) -> agent_config.Version:
        """Major and minor version, as reported by the agent."""
        with self._ask("agent/self") as answer:
            major, minor = json.load(answer)["Config"]["Version"].split(".")[:2]
        return int(major), int(minor)

    @property
    def generation(self) -> Generation:
        """Its generation, by its behaviour: a proxy may be in front of an older version."""
        with self._ask("health/service/consul?index=1&wait=1ms") as answer:
            streams = is_streamed(answer.headers)
        return Generation.STREAMING if streams else Generation.CLASSIC

    def start(self) -> None:
        """Start the agent and wait until it has a leader.

        Raises:
            TimeoutError: it has none after two minutes; its log is in the message.
        """
        self._launch()
        self._wait(self._settled)

    def restart(self) -> None:
        """Kill and restart the agent; it does not need a leader.

        Raises:
            TimeoutError: it answers nothing after two minutes; its log is in the message.
        """
        self.stop()
        self._launch()
        self._wait(self._answers)

    def _launch(self) -> None:
        settings = agent_config.settings(consul_version(self._program), **self._ports)
        settings |= {"node_name": self._node, "bind_addr": "127.0.0.1", "log_level": "warn"}
        command = [str(self._program), "agent"]
        if not self._lan:
            command.append("-dev")
        else:
            settings |= {"data_dir": str(self._folder / "data"), "retry_join": [self._lan]}
        (self._folder / "agent.json").write_text(json.dumps(settings | self._more))
        with (self._folder / "agent.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, f"-config-file={self._folder / 'agent.json'}"],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not holds():
            if (
                time.monotonic() > deadline
                or self._process is None
                or self._process.poll() is not None
            ):
                self.stop()
                raise TimeoutError((self._folder / "agent.log").read_text()[-2000:])
            time.sleep(0.1)

    def stop(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):  # it has exited
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _settled(self) -> bool:
        """Whether the agent has a leader and has registered its own node."""
        try:
            with self._ask(f"health/node/{self._node}") as answer:
                return bool(json.load(answer))
        except (OSError, ValueError):
            return False

    def _answers(self) -> bool:
        try:
            with self._ask("agent/services"):
                return True
        except OSError:
            return False

    def _ask(self, path: str) -> Any:
        headers = {"X-Consul-Token": self._token} if self._token else {}
        request = urllib.request.Request(f"http://{self.http}/v1/{path}", headers=headers)
        return urllib.request.urlopen(request, timeout=10)  # noqa: S310 - the URL is http
