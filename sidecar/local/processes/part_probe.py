"""Probes of the parts of a local mesh.

Acts: aiohttp, asyncio, grpc.
"""

import asyncio

import aiohttp
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar.local.planning.plan import Probe
from sidecar.runtime.errors import Unavailable, words

# Seconds for one probe and between two, on a machine busy with starting all parts at once.
_TIMEOUT = 3.0
_PAUSE = 0.1
# All traffic is loopback; gRPC would otherwise follow http_proxy.
_OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))


async def check(probe: Probe) -> None:
    """Probe once.

    Raises:
        Unavailable: the part is not up; the message has its answer.
    """
    match probe.kind:
        case "consul":
            if (await get(f"{probe.target}/v1/status/leader")).strip() in ('""', ""):
                raise Unavailable("it has not elected a leader yet")
        case "http":
            await get(probe.target)
        case "health":
            await health(probe.target)
        case "tcp":
            await _connect(probe.target)


async def until(probe: Probe) -> None:
    """Probe until the part is up."""
    while True:
        try:
            return await check(probe)
        except Unavailable:
            await asyncio.sleep(_PAUSE)


async def get(url: str, method: str = "GET") -> str:
    """The body of a successful HTTP response.

    Raises:
        Unavailable: no response, or one that is not 2xx.
    """
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(method, url) as answer,
        ):
            body = await answer.text()
            if not answer.ok:
                raise Unavailable(f"{url}: {answer.status} {body.strip()[:200]}")
            return body
    except (aiohttp.ClientError, OSError) as error:
        raise Unavailable(f"{url}: {words(error)}") from error


async def health(address: str, service: str = "") -> str:
    """The status that grpc.health.v1 answers: SERVING, NOT_SERVING, SERVICE_UNKNOWN or UNKNOWN.

    Raises:
        Unavailable: no answer.
    """
    async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = await stub.Check(request, timeout=_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            raise Unavailable(f"{address}: {error.code().name} {error.details()}") from error
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def _connect(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(_TIMEOUT):
            _, writer = await asyncio.open_connection(host, int(port))
    except OSError as error:
        raise Unavailable(f"{address}: {words(error)}") from error
    writer.close()
