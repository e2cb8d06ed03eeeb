"""A TCP proxy in front of a Triton that can cut connections and stop forwarding."""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from sidecar.local.meshfile import Mesh
from sidecar.local.planning import ports
from tests.support.mesh.mesh import LiveMesh
from tests.support.mesh.mesh_outside import until

_CHUNK = 1 << 16


class Proxy:
    """Forwards TCP connections to `target`, host:port, until `cut` or `swallow`."""

    def __init__(self, target: str, port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self._target, self._port = target, port
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()

    async def connect(self) -> None:
        """Accept connections and forward everything, as before a fault."""
        self._flowing.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)

    def cut(self) -> None:
        """Refuse connections, and reset the open ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()

    def swallow(self) -> None:
        """Accept connections, and forward nothing in either direction."""
        self._flowing.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._target.rpartition(":")
        self._writers.add(writer)
        try:
            await self._flowing.wait()
            onward = await asyncio.open_connection(host, int(port))
        except OSError:
            self._drop(writer)
            return
        self._writers.add(onward[1])
        both = (self._pass(reader, onward[1]), self._pass(onward[0], writer))
        await asyncio.gather(*both)
        self._drop(writer, onward[1])

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(_CHUNK):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        except OSError:
            writer.transport.abort()

    def _drop(self, *writers: asyncio.StreamWriter) -> None:
        for writer in writers:
            self._writers.discard(writer)
            writer.close()


@dataclass
class ProxiedMesh(LiveMesh):
    """A mesh whose sidecars and Envoy reach each Triton through a proxy, by instance."""

    proxies: dict[str, Proxy]

    @property
    def now(self) -> Mesh:
        """The mesh with each proxy's address as its Triton's."""
        mesh = super().now
        return replace(
            mesh,
            instances=tuple(
                replace(own, triton=replace(own.triton, grpc=self.proxies[own.id].address))
                for own in mesh.instances
            ),
        )


@asynccontextmanager
async def proxied(mesh: LiveMesh) -> AsyncIterator[ProxiedMesh]:
    """Put a proxy in front of each Triton during the context; sidecars are restarted."""
    instances = mesh.now.instances
    with ports.reserve(len(instances)) as drawn:
        proxies = {
            own.id: Proxy(own.triton.grpc, port) for own, port in zip(instances, drawn, strict=True)
        }
        there = [(own.id, own.triton.grpc, proxies[own.id].address) for own in instances]
        back = [(instance, after, before) for instance, before, after in there]
        for proxy in proxies.values():
            await proxy.connect()
        try:
            await _point(mesh, there)
            yield ProxiedMesh(mesh.folder, proxies)
        finally:
            await _point(mesh, back)
            for proxy in proxies.values():
                proxy.cut()


async def _point(mesh: LiveMesh, changes: Sequence[tuple[str, str, str]]) -> None:
    """Change the address at which each instance's sidecar reaches its Triton."""
    old = {}
    for instance, before, after in changes:
        settings = mesh.folder / instance / "sidecar.toml"
        settings.write_text(settings.read_text().replace(before, after))
        old[instance] = mesh.signal(mesh.sidecar_of(instance), signal.SIGTERM)
    for instance, pid in old.items():
        part = mesh.sidecar_of(instance)
        await until(lambda: mesh.running(part) not in (None, pid), f"a new {part}")  # noqa: B023
