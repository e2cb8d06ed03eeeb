"""The transport of the Consul client: python-consul2's endpoints on one aiohttp session.

Acts: aiohttp, consul.
"""

import ssl
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import aiohttp
import consul.base

from sidecar.consul.access import ConsulAccess
from sidecar.consul.response import Response
from sidecar.runtime import credentials

T = TypeVar("T")


def _verb(method: str) -> "Callable[..., Awaitable[Any]]":
    async def send(
        self: "Transport",
        callback: Callable[[Response], T],
        path: str,
        params: Any = None,
        data: Any = None,
        headers: Any = None,
    ) -> T:
        return callback(await self.send(method, path, params, data, headers))

    return send


class Transport(consul.base.HTTPClient):
    """python-consul2's HTTP client. The session is opened by the first request.

    `token` is sent with every request. Deadlines are the caller's: a blocking query outlasts any
    that could be set here.
    """

    get, put, post, delete = map(_verb, ("GET", "PUT", "POST", "DELETE"))

    def __init__(self, access: ConsulAccess) -> None:
        self.base_uri = access.url
        self.token: str | None = None
        self._tls = _tls(access)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()

    async def send(self, method: str, path: str, params: Any, data: Any, headers: Any) -> Response:
        """Send one request and read the whole response."""
        if self._session is None:
            self._session = self._open()
        if self.token:
            headers = {**(headers or {}), "X-Consul-Token": self.token}
        uri = self.uri(path, params)
        async with self._session.request(method, uri, data=data, headers=headers) as answer:
            content = await answer.read()
        body = content.decode(errors="replace")
        return Response(answer.status, answer.headers, body, content)

    def _open(self) -> aiohttp.ClientSession:
        # Each watch occupies a connection, so a limit would make requests wait.
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._tls),
            timeout=aiohttp.ClientTimeout(total=None),
        )


class Client(consul.base.Consul):
    """python-consul2's endpoints that we use, on our transport.

    The base class's constructor lets CONSUL_HTTP_ADDR and CONSUL_HTTP_TOKEN override its
    arguments, and fails on forms that it does not know; so this one sets the attributes itself.
    """

    def __init__(self, access: ConsulAccess) -> None:
        self.http = Transport(access)
        self.token = None
        self.dc = None
        self.consistency = "default"
        self.agent = consul.base.Consul.Agent(self)
        self.kv = consul.base.Consul.KV(self)
        self.session = consul.base.Consul.Session(self)


def _tls(access: ConsulAccess) -> ssl.SSLContext | bool:
    if not access.url.startswith("https:"):
        return True
    context = credentials.tls("consul", access.ca_file, access.cert_file, access.key_file)
    if not access.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
