"""Whether a local mesh as a whole works: what `local up` waits for before it says so."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from sidecar.consul_api import ConsulApi
from sidecar.errors import SidecarError, Unavailable
from sidecar.local import probe, view
from sidecar.local.meshfile import Mesh
from sidecar.local.runner import StartFailed
from sidecar.triton import Triton, tensor

MODEL = "tinychat_unary"  # the one whose canary is sent through Envoy
_PAUSE = 0.1
_REQUEST = 10.0

Question = tuple[str, Callable[[], Awaitable[object]]]


async def until_ready(
    mesh: Mesh, api: ConsulApi, canary: Mapping[str, Any], timeout: float = 180.0
) -> None:
    """Wait until every sidecar serves, Consul agrees, there is a primary, and Envoy answers.

    Raises:
        StartFailed: after `timeout` seconds; it names the part that is to blame and why.
    """
    blamed, why = "", ""
    try:
        async with asyncio.timeout(timeout):
            for part, ask in questions(mesh, api, canary):
                blamed = part
                while why := await _refusal(ask):  # noqa: ASYNC110 -- nobody would tell
                    await asyncio.sleep(_PAUSE)
    except TimeoutError:
        raise StartFailed(blamed, f"not ready within {timeout:g} s: {why}") from None


def questions(mesh: Mesh, api: ConsulApi, canary: Mapping[str, Any]) -> Sequence[Question]:
    """What has to be true, in the order in which it becomes true, each with the part to blame."""
    serving: list[Question] = [
        (f"sidecar-{number}", partial(_serving, instance.sidecar.grpc))
        for number, instance in enumerate(mesh.instances)
    ]
    return (
        *serving,
        *((f"sidecar-{n}", partial(_passing, api, own.id)) for n, own in enumerate(mesh.instances)),
        ("sidecar-0", partial(_elected, api)),
        ("envoy", partial(probe.get, f"http://{mesh.envoy.admin}/ready")),
        ("envoy", partial(_answering, mesh.envoy.grpc, canary)),
    )


async def _refusal(ask: Callable[[], Awaitable[object]]) -> str:
    try:
        await ask()
    except SidecarError as error:
        return str(error) or type(error).__name__
    return ""


async def _serving(address: str) -> None:
    status = await probe.health(address)
    if status != "SERVING":
        raise Unavailable(f"grpc.health.v1 says {status}")


async def _passing(api: ConsulApi, instance: str) -> None:
    seen = (await view.observe(api)).get(instance)
    if seen is None:
        raise Unavailable(f"{instance} is not registered in Consul")
    if seen.status != "passing":
        raise Unavailable(f"{instance} is {seen.status} in Consul: {seen.reason}")


async def _elected(api: ConsulApi) -> None:
    if all(seen.role != "primary" for seen in (await view.observe(api)).values()):
        raise Unavailable("no instance has been elected primary")


async def _answering(address: str, canary: Mapping[str, Any]) -> None:
    inputs = {
        given["name"]: tensor(given["datatype"], given["shape"], given["data"])
        for given in canary["inputs"]
    }
    async with Triton(address) as client:
        await client.infer(MODEL, inputs, _REQUEST)
