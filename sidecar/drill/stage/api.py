"""What a drill needs of the mesh that it runs on.

Acts: through what it imports or is given.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from sidecar.drill.environment import Surroundings
from sidecar.drill.load.process import RunningLoad
from sidecar.drill.load.spec import LoadSpec
from sidecar.drill.scenario import Need
from sidecar.drill.stage.observation import Observation


class Stage(Protocol):
    """A running mesh: of one machine, of network namespaces, or a live one."""

    @property
    def offers(self) -> frozenset[Need]:
        """What scenarios may need of it."""

    @property
    def lacking(self) -> Mapping[Need, str]:
        """Why it does not offer something, as far as that is known."""

    async def surroundings(self) -> Surroundings:
        """What a record says about it.

        Raises:
            SidecarError: a part of it does not answer.
        """

    async def steady(self, patience: float = ...) -> None:
        """Wait for the steady state: every instance healthy, one primary, and Envoy agrees.

        Raises:
            Unavailable: it was not reached; the message says what is missing.
            DrillRefused: only an operator changes what is missing; its code says what.
        """

    async def healthy(self) -> frozenset[str]:
        """The instances that are healthy according to Consul, by id."""

    async def primary(self) -> str:
        """The instance that holds the lock, once there is one."""

    async def standby(self) -> str:
        """An instance that is not primary."""

    def observed(self) -> AbstractAsyncContextManager[Observation]:
        """Observe it while the context lasts."""

    def loaded(
        self, spec: LoadSpec, *, began: float, seed: int, cached: bool = False
    ) -> AbstractAsyncContextManager[RunningLoad]:
        """Put load on it while the context lasts; `began` and samples are on one clock.

        With `cached` it also asks the model whose answers Triton caches.
        """

    async def retries(self) -> int | None:
        """How many requests Envoys have sent to a further instance so far; None if unknown."""
