"""Whether a local mesh as a whole works: what `local up` waits for before it says so."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from sidecar.consul.api import ConsulApi
from sidecar.health.server import LIVENESS
from sidecar.local import consul_view
from sidecar.local.meshfile import Mesh
from sidecar.local.processes import part_probe
from sidecar.local.processes.runner import StartFailed
from sidecar.runtime.errors import SidecarError, Unavailable, words
from sidecar.triton.client import Triton

_PAUSE = 0.1
_REQUEST = 10.0

Question = tuple[str, Callable[[], Awaitable[object]]]


async def until_ready(
    mesh: Mesh, api: ConsulApi, models: Sequence[str], timeout: float = 180.0
) -> None:
    """Wait until every sidecar answers and Consul agrees, and Envoy leads to a primary.

    Raises:
        StartFailed: after `timeout` seconds; it names the part that is to blame and why.
    """
    blamed, why = "", ""
    try:
        async with asyncio.timeout(timeout):
            for part, ask in questions(mesh, api, models):
                blamed = part
                while why := await _refusal(ask):  # noqa: ASYNC110 -- nobody would tell
                    await asyncio.sleep(_PAUSE)
    except TimeoutError:
        raise StartFailed(blamed, f"not ready within {timeout:g} s: {why}") from None


def questions(mesh: Mesh, api: ConsulApi, models: Sequence[str]) -> Sequence[Question]:
    """What has to be true, in the order in which it becomes true, each with the part to blame."""
    serving: list[Question] = [
        (f"sidecar-{number}", partial(_answering, instance.sidecar.grpc))
        for number, instance in enumerate(mesh.instances)
    ]
    return (
        *serving,
        *((f"sidecar-{n}", partial(_passing, api, own.id)) for n, own in enumerate(mesh.instances)),
        ("sidecar-0", partial(_elected, api)),
        ("envoy", partial(part_probe.get, f"http://{mesh.envoy.admin}/ready")),
        *(("envoy", partial(_reachable, mesh.envoy.grpc, model)) for model in models),
    )


async def _refusal(ask: Callable[[], Awaitable[object]]) -> str:
    try:
        await ask()
    except SidecarError as error:
        return words(error)
    return ""


async def _answering(address: str) -> None:
    await part_probe.health(address, LIVENESS)


async def _passing(api: ConsulApi, instance: str) -> None:
    seen = (await consul_view.observe(api)).get(instance)
    if seen is None:
        raise Unavailable(f"{instance} is not registered in Consul")
    if seen.status not in consul_view.HEALTHY:
        raise Unavailable(f"{instance} is {seen.status} in Consul: {seen.reason}")


async def _elected(api: ConsulApi) -> None:
    if all(seen.role != "primary" for seen in (await consul_view.observe(api)).values()):
        raise Unavailable("no instance has been elected primary")


async def _reachable(address: str, model: str) -> None:
    """Only that Envoy leads to a Triton: what its models answer, the sidecars have proven."""
    async with Triton(address) as client:
        if not await client.model_ready(model, _REQUEST):
            raise Unavailable(f"through Envoy, Triton says that {model} is not ready")
