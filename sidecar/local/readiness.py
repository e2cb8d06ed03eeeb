"""Readiness of a whole mesh: the conditions that `local up` waits for.

Acts: asyncio.
"""

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
    """Wait until every sidecar answers and passes in Consul, and Envoy reaches a primary.

    Raises:
        StartFailed: after `timeout` seconds; it names the part at fault and why.
    """
    blamed, why = "", ""
    try:
        async with asyncio.timeout(timeout):
            for part, ask in questions(mesh, api, models):
                blamed = part
                while why := await _refusal(ask):  # noqa: ASYNC110 -- no event to wait for
                    await asyncio.sleep(_PAUSE)
    except TimeoutError:
        raise StartFailed(blamed, f"not ready within {timeout:g} s: {why}") from None


def questions(mesh: Mesh, api: ConsulApi, models: Sequence[str]) -> Sequence[Question]:
    """The conditions in the order in which they become true, each with the part at fault."""
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
    """Only whether Envoy reaches a Triton: the sidecars have verified the models' answers."""
    async with Triton(address) as client:
        if not await client.model_ready(model, _REQUEST):
            raise Unavailable(f"through Envoy, Triton says that {model} is not ready")
