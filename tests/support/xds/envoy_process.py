"""A real Envoy as a process, and its admin interface."""

import asyncio
import json
import signal
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from sidecar.local.programs import parts
from tests.checks.validate_envoy import read_bootstrap
from tests.support.xds.waiting import PATIENCE, eventually


class Envoy:
    """A real Envoy in its own folder."""

    process: asyncio.subprocess.Process
    log: Path
    stopped = False
    admin = ""
    port = 0

    @classmethod
    async def start(
        cls, folder: Path, xds_port: int, api_type: str, workers: int = 2, second: int = 0
    ) -> "Envoy":
        """Start an Envoy; it has no listener until the control plane has published a snapshot.

        `second` is the port of a second control plane.
        """
        config = read_bootstrap(two=bool(second))
        config["dynamic_resources"]["ads_config"]["api_type"] = api_type
        _set_port(config["admin"]["address"], 0)
        [control_plane] = config["static_resources"]["clusters"]
        ports = [xds_port, second] if second else [xds_port]
        localities = control_plane["load_assignment"]["endpoints"]
        for locality, port in zip(localities, ports, strict=True):
            _set_port(locality["lb_endpoints"][0]["endpoint"]["address"], port)
        path, admin = folder / "envoy.yaml", folder / "admin"
        path.write_text(yaml.safe_dump(config))
        envoy = cls()
        envoy.log = folder / "envoy.log"
        with (folder / "envoy.log").open("wb") as log:
            envoy.process = await asyncio.create_subprocess_exec(
                *(str(parts.find("envoy")), "-c", str(path), "--admin-address-path", str(admin)),
                *("--disable-hot-restart", "--concurrency", str(workers), "-l", "info"),
                stdout=log,
                stderr=log,
            )
        await eventually(lambda: admin.exists() and admin.read_text(), "Envoy's admin address")
        envoy.admin = admin.read_text()
        return envoy

    async def listening(self) -> None:
        """Wait until it accepts clients."""
        await eventually(self._find_listener, "Envoy listens")

    async def get(self, path: str) -> str:
        """Read a page of the admin interface."""
        return await asyncio.to_thread(self._get, path)

    async def stat(self, name: str) -> int:
        """The value of a counter or gauge; 0 while it does not exist."""
        found = json.loads(await self.get(f"/stats?format=json&filter=^{name}$"))["stats"]
        return int(found[0]["value"]) if found else 0

    async def stop(self) -> None:
        """Stop the process, which must still be running; idempotent."""
        if self.stopped:
            return
        self.stopped, status = True, self.process.returncode
        if status is None:
            self.process.send_signal(signal.SIGTERM)
        await self.process.wait()
        assert status is None, f"Envoy ended with {status}: {self.log.read_text()[-4000:]}"

    async def _find_listener(self) -> bool:
        found = json.loads(await self.get("/listeners?format=json"))
        for status in found.get("listener_statuses", ()):
            self.port = status["local_address"]["socket_address"]["port_value"]
        if not self.port:
            return False
        # The address is bound before the first worker listens on it.
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except ConnectionRefusedError:
            return False
        writer.close()
        return True

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self.admin}{path}", timeout=PATIENCE) as answer:
            return str(answer.read().decode())


def _set_port(address: dict[str, Any], port: int) -> None:
    address["socket_address"] |= {"address": "127.0.0.1", "port_value": port}
