"""Waiting until the work in flight on this instance is done, as the control planes see it.

Only Envoy knows what is in flight. Each control plane tells how many of its Envoys have
acknowledged that the instance gets no new request, and what they still report as running on it.
"""

from collections.abc import Callable

from sidecar.control_planes import rpc
from sidecar.control_planes.membership import Heard
from sidecar.control_planes.rpc import Drain
from sidecar.control_planes.watch import Register
from sidecar.runtime.clock import Clock


async def wait_until_idle(
    register: Register,
    service: str,
    instance: str,
    clock: Clock,
    doubted: Callable[[str], None],
) -> None:
    """Return once every control plane has reported that nothing is in flight.

    Where it is proven that no control plane is registered no Envoy follows the catalog, and there
    is nothing to wait for. While Consul or a control plane does not answer it waits: the caller
    sets the deadline. `doubted` is told why there may be control planes that are not seen.
    """
    async with rpc.watch_drain(register, service, instance, clock) as words:
        async for heard in rpc.telling(words, doubted):
            if idle(heard):
                return


def idle(heard: Heard[Drain]) -> bool:
    """Whether nothing is in flight for certain, by what the control planes say.

    One that has left while its Envoys had work is believed gone when others speak for all of them.
    """
    said = [word for word in heard.words if word is not None and word.done]
    if heard.doubt or len(said) < len(heard.words):
        return False
    spoken_for = frozenset[str]().union(*(word.nodes for word in said))
    left = [word for word in heard.left if word is not None and not word.done]
    return all(word.nodes and word.nodes <= spoken_for for word in left)
