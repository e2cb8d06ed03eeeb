"""A live mesh as the stage of drills, seen through Consul, its control planes and one Envoy.

Acts: asyncio.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from sidecar.control_planes import rpc
from sidecar.control_planes.watch import PlaneDirectory
from sidecar.drill.environment import Surroundings
from sidecar.drill.live import precheck
from sidecar.drill.load.process import Asked, Place, RunningLoad, load
from sidecar.drill.load.spec import LoadSpec
from sidecar.drill.scenario import Need
from sidecar.drill.stage.observation import Observation, observing
from sidecar.drill.stage.waiting import PATIENCE, until
from sidecar.health.canary.definition import Canary
from sidecar.local import timeline
from sidecar.operator import operator_client
from sidecar.operator.operator_client import OperatorClient
from sidecar.operator.service_status import ServiceStatus
from sidecar.runtime.errors import SidecarError, Unavailable

_PAUSE = 0.5  # seconds between two checks of the whole mesh
_AGREE = 3.0  # seconds for control planes and Envoys to agree, in one check


@dataclass(frozen=True, slots=True)
class Entrance:
    """Where the load enters a live mesh, and what it asks.

    Attributes:
        envoy: host:port where an Envoy accepts clients.
        canaries: the questions; their models are described through Envoy.
        log: a file for what the load complains about.
    """

    envoy: str
    canaries: Sequence[Canary]
    log: Path


class LiveStage:
    """The mesh of an operator's client; implements `Stage`."""

    def __init__(self, client: OperatorClient, entrance: Entrance) -> None:
        self.client = client
        self._entrance = entrance
        self._planes = PlaneDirectory(client.consul, client.control_plane, client.service)

    @property
    def offers(self) -> frozenset[Need]:
        """Nothing: faults are ordered from sidecars, and scenarios that need more are skipped."""
        return frozenset()

    @property
    def lacking(self) -> Mapping[Need, str]:
        """Nothing is known that an operator could change."""
        return {}

    async def status(self) -> ServiceStatus:
        """The service at this moment.

        Raises:
            SidecarError: Consul does not answer or refuses.
        """
        return await operator_client.read_status(self.client)

    async def surroundings(self) -> Surroundings:
        """What a record says about it.

        Raises:
            SidecarError: Consul does not answer or refuses.
        """
        seen = await self.status()
        return Surroundings(f"live: {len(seen.candidates)} instances of {seen.service}", {})

    async def steady(self, patience: float = PATIENCE) -> None:
        """Wait until every instance serves, one is primary, nothing is ordered, and Envoys agree.

        Raises:
            DrillRefused: only an operator changes what is missing, such as a pause.
            Unavailable: it was not reached; the message says why.
        """
        clock, service = self.client.clock, self.client.service
        deadline = clock.now() + patience
        while True:
            missing = await self._missing()
            if not missing:
                return
            if clock.now() >= deadline:
                raise Unavailable(f"{service} is not steady after {patience:g} s: {missing}")
            await clock.sleep(_PAUSE)

    async def _missing(self) -> str:
        """What the steady state lacks; empty if nothing."""
        try:
            seen = await self.status()
            why = precheck.refusal_of_mesh(seen, "")
            if why is None:
                return await self._disagreement(seen)
        except SidecarError as error:
            return str(error)
        if why.code in precheck.STAYS:
            raise why
        return str(why)

    async def _disagreement(self, seen: ServiceStatus) -> str:
        """Which control planes or Envoys do not prefer the primary, or nothing."""
        held, client, why = seen.state.lock, self.client, ""

        def incomplete(text: str) -> None:
            nonlocal why
            why = text

        agreed = rpc.primary_acknowledged(
            self._planes, client.service, held.instance or "", held.epoch, client.clock, incomplete
        )
        try:
            await asyncio.wait_for(agreed, _AGREE)
        except TimeoutError:
            return why or f"not every control plane and Envoy prefers {held.instance}"
        return ""

    async def healthy(self) -> frozenset[str]:
        """The instances that serve, by id."""
        return frozenset(each.id for each in (await self.status()).candidates if each.serving)

    async def primary(self) -> str:
        """The instance that holds the lock, once there is one.

        Raises:
            Unavailable: there is none.
        """
        found: list[str] = []

        async def held() -> bool:
            found[:] = [primary] if (primary := (await self.status()).primary) else []
            return bool(found)

        await until(held, "a primary", pause=_PAUSE)
        return found[0]

    async def standby(self) -> str:
        """The first instance that is not primary and serves.

        Raises:
            Unavailable: there is none.
        """
        for each in (await self.status()).others:
            if each.serving:
                return each.id
        raise Unavailable(f"{self.client.service} has no standby that serves")

    def observed(self) -> AbstractAsyncContextManager[Observation]:
        """Observe it while the context lasts: by Consul and by all its control planes."""
        consul, service = self.client.consul, self.client.service
        reports = rpc.watch_primary(self._planes, service, self.client.clock)
        return observing(timeline.follow_service(consul, service), reports)

    def loaded(
        self, spec: LoadSpec, *, began: float, seed: int, cached: bool = False
    ) -> AbstractAsyncContextManager[RunningLoad]:
        """Put load on it, through the Envoy, while the context lasts."""
        envoy, place = self._entrance.envoy, Place(self._entrance.log)
        asked = Asked(self._entrance.canaries)
        return load(spec, envoy, envoy, place, began=began, seed=seed, asked=asked)

    async def retries(self) -> None:
        """Unknown: Envoys' admin interfaces are not read."""
