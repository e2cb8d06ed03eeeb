"""The order in which a sidecar stops: out of the catalog first, the lock only after the drain."""

from collections.abc import Iterable
from dataclasses import dataclass

import grpc.aio

from sidecar.election.keys.orders import HAND_OVER
from sidecar.election.participant import Participant
from sidecar.health.assessment import Assessment
from sidecar.lifecycle import Step, Tasks, cancel_all
from sidecar.notify.notifier import Notifier
from sidecar.registry.publisher import Publisher
from sidecar.registry.withdrawal import CUT, Withdrawal
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import Unavailable

_RETRY = 0.5  # seconds until a deregistration that Consul did not answer is retried
_STEP = 5.0  # seconds for a step that only talks to Consul
_FLUSHED_WITHIN = 2.0  # seconds for hooks and notifications of what stopping has changed


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The parts of a sidecar that stop; `drain_timeout` is in seconds.

    `save` are the steps that write to disk what the next start continues with.
    """

    assessment: Assessment
    participant: Participant
    publisher: Publisher
    withdrawal: Withdrawal
    notifier: Notifier
    server: grpc.aio.Server
    save: Iterable[Step]
    drain_timeout: float
    clock: Clock

    def steps(self, tasks: Tasks) -> list[Step]:
        """The steps in their order; `tasks` are the loops."""
        drain, role = self.drain_timeout, self.participant
        return [
            Step("hand_over", role.hand_over, HAND_OVER, skippable=True),
            Step("stop_serving", self._stop_serving, 1.0),
            Step("withdraw", self.publisher.withdraw, _STEP),
            Step("drain", self.withdrawal.drain, drain, skippable=True),
            Step(CUT, self.withdrawal.cut, _STEP),
            Step("release_role", role.leave, _STEP),
            Step("flush_notifications", self.notifier.settled, _FLUSHED_WITHIN, skippable=True),
            *self.save,
            Step("end_loops", lambda: cancel_all(tasks), 2 * _STEP),  # an action may be one of them
            Step("deregister", self._deregister, _STEP),
            Step("close_server", lambda: self.server.stop(0.2), 1.0),
        ]

    async def _stop_serving(self) -> None:
        self.assessment.drain("shutting down")
        self.participant.reconsider()

    async def _deregister(self) -> None:
        # An instance that an operator has put into maintenance stays there while its sidecar is
        # replaced; Consul forgets the entry if no sidecar comes back.
        while not self.publisher.keeps_entry:
            try:
                await self.publisher.deregister()
                return
            except Unavailable:  # the client has reported it; the step has a deadline
                await self.clock.sleep(self.clock.jitter(_RETRY, 0.2))
