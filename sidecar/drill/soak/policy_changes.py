"""Changes the traffic policy during some faults, with `triton-sidecar policy set`, as people do.

Acts: asyncio, random.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from sidecar.drill.cluster.stage import ClusterStage
from sidecar.drill.injections import operations
from sidecar.drill.record import Violation
from sidecar.drill.scenario import Scenario
from sidecar.drill.soak.features import POLICIES
from sidecar.runtime.errors import Rejected

_EARLIEST, _LATEST = 1.0, 15.0  # seconds into a run
_AGAIN = 2.0  # seconds after a change that failed, such as while Consul is gone


@dataclass(slots=True)
class PolicyChanges:
    """The changes of a soak; the same ones for the same seed and fault.

    `due` counts them; `made` those that succeeded, and `failed` says why the last one that failed
    did.
    """

    stage: ClusterStage
    seed: int
    due: int = 0
    made: int = 0
    failed: str = field(default="", init=False)

    async def begin(self) -> None:
        """Set the first policy.

        Raises:
            Rejected: it was refused.
        """
        await self._set(0)

    @asynccontextmanager
    async def during(self, scenario: Scenario[Any], number: int) -> AsyncIterator[None]:
        """Change it during a random half of the faults, except those that are a policy themselves.

        A change that was rejected is made again; any other error of it is raised at the end.
        """
        chance = random.Random(f"{self.seed} {number}")  # noqa: S311 -- the same for the same seed
        if scenario.inject is operations.bad_policy or chance.random() < 1 / 2:
            yield
            return
        self.due += 1
        changing = asyncio.create_task(
            self._change(chance.uniform(_EARLIEST, _LATEST), number % len(POLICIES)), name="policy"
        )
        try:
            yield
        finally:
            changing.cancel()
            await asyncio.wait((changing,))
            with suppress(asyncio.CancelledError):
                changing.result()

    def violations(self) -> Sequence[Violation]:
        """A soak in which every change failed has proved nothing about changes."""
        if not self.due or self.made:
            return ()
        return (
            Violation("policies", "a change of the policy", f"{self.due} failed: {self.failed}"),
        )

    async def _change(self, after: float, which: int) -> None:
        await asyncio.sleep(after)
        while True:
            try:
                await self._set(which)
            except Rejected as error:
                self.failed = str(error)
                await asyncio.sleep(_AGAIN)
            else:
                self.made += 1
                return

    async def _set(self, which: int) -> None:
        file = self.stage.folder / f"policy-{which}.json"
        file.write_text(json.dumps(POLICIES[which]))
        await operations.command(self.stage, "policy", "set", str(file))
