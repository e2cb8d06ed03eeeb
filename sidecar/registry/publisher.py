"""The publishing loops: keep this instance's entry in Consul correct, and watch its checks.

Everything is written through the local agent, again after the agent restarts, after the entry was
deleted or edited, and after the catalog lost it. One loop only pushes the verdict, so that nothing
slow stands between a fault and Envoy; another keeps the registration, a third watches the checks.

Acts: asyncio.
"""

import asyncio
from collections.abc import Callable, Mapping

from sidecar.consul.api import Check, ConsulApi, QueryResult, ServiceEntry, Status
from sidecar.consul.blocking_query import Pace, follow
from sidecar.events import Hook, Published, Registered
from sidecar.registry import checks, registration
from sidecar.registry.registration import HEARTBEAT, InstanceInfo, InstanceMeta
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import NotFound, SidecarError
from sidecar.runtime.latest import Latest, first_of
from sidecar.verdict.verdict import Verdict

_RETRY = 0.5  # seconds between attempts while Consul does not answer
_SYNCED = 1.0  # seconds after which an agent has synced a check's new status to the catalog
_WAIT = 60.0  # seconds that a blocking query may block
_PACE = Pace(retry=1.0, longest=15.0, resync=300.0)
_OTHER_TOKEN = "the agent keeps an outdated token"  # noqa: S105 - it is none


class Publisher:
    """Publishes until cancelled.

    `text` renders a verdict as the check's output. `published` is the last verdict that the agent
    has confirmed, `maintained` why others want the instance out of service, or None: see
    `checks.objection`. `keeps_entry`: an operator has put the entry itself into maintenance mode,
    so it must outlive the sidecar.
    """

    def __init__(
        self,
        consul: ConsulApi,
        verdict: Latest[Verdict],
        wanted: Callable[[], tuple[InstanceInfo, InstanceMeta]],
        text: Callable[[Verdict], str],
        clock: Clock,
        hook: Hook,
    ) -> None:
        self.published: Latest[Verdict | None] = Latest(None)
        self.maintained: Latest[str | None] = Latest(None)
        self.keeps_entry = False
        self._consul = consul
        self._verdict = verdict
        self._wanted = wanted
        self._text = text
        self._clock = clock
        self._hook = hook
        self._registrations: Latest[int] = Latest(0)
        self._status: Status = "critical"  # as pushed last, and since when
        self._status_since = clock.now()
        self._withdrawn = False
        self._stuck = False  # whether the catalog shows a maintenance that the agent has ended
        self._nudge = asyncio.Event()
        self._node: Latest[str] = Latest("")
        # The checks of the instance's node in the catalog; empty while the catalog does not answer.
        self._catalog_checks: tuple[Check, ...] = ()
        self._meta: Mapping[str, str] = {}  # of the entry, as last read from the agent

    def nudge(self) -> None:
        """Compare the entry now: the wanted registration has changed."""
        self._nudge.set()

    async def withdraw(self) -> None:
        """Take the instance out of the catalog's healthy set, and leave its session alone.

        An instance that is not registered counts as withdrawn, and stays unregistered. If an
        operator has put it into maintenance mode, that reason stays, and the meta is updated.

        Raises:
            Unavailable, Rejected: Consul has not confirmed it; `keep` retries.
        """
        self._withdrawn = True
        instance, meta = self._wanted()
        try:
            observed = await self._consul.agent_service(instance.id)
            self._read_checks(instance, observed)
            if not self.keeps_entry:
                await self._consul.maintain_service(instance.id, checks.WITHDRAWN)
            elif registration.differences(instance, meta, observed):
                await self._consul.register_service(registration.registration(instance, meta))
        except NotFound:
            pass
        finally:
            self.nudge()  # a registration may have been in flight

    async def deregister(self) -> None:
        """Remove the entry: the last step, after the loops have ended.

        Raises:
            Unavailable, Rejected: Consul has not confirmed it.
        """
        instance, meta = self._wanted()
        known = await self._consul.agent_service(instance.id) is not None
        # An older agent leaves the entry in the catalog if its token for it was revoked.
        if known and (why := await self._other_token(instance)):
            await self._register(instance, meta, why)
        await self._consul.deregister_service(instance.id)

    async def push(self) -> None:
        """Push the verdict when it changes, and as a heartbeat, forever."""
        await self._registrations.changed(0)
        while True:
            seen, registered = self._verdict.version, self._registrations.version
            pause = await self._push()
            await first_of(
                self._clock,
                pause,
                self._verdict.changed(seen),
                self._registrations.changed(registered),
            )

    async def _push(self) -> float:
        """Push once; returns the seconds until the next push."""
        verdict, (instance, _) = self._verdict.value, self._wanted()
        status = registration.check_status(verdict, self._status)
        try:
            await self._consul.update_check(instance.verdict_check, status, self._text(verdict))
        except SidecarError as error:  # the client has reported it
            if isinstance(error, NotFound):
                self.nudge()
            return self._clock.jitter(_RETRY, 0.2)
        now = self._clock.now()
        if status != self._status:
            self._status, self._status_since = status, now
        if verdict != self.published.value:
            self.published.set(verdict)
            self._hook(Published(verdict, now - verdict.at))
        return HEARTBEAT

    async def keep(self) -> None:
        """Keep the registration correct, forever."""
        while True:
            self._nudge.clear()
            try:
                await self._reconcile()
                pause = HEARTBEAT
            except SidecarError:  # the client has reported it
                pause = self._clock.jitter(_RETRY, 0.2)
            await first_of(self._clock, pause, self._nudge.wait())

    async def watch(self) -> None:
        """Notice at once when the checks of the instance or its node change, forever.

        `keep` also reads them from the agent, which knows more while Consul's servers are down.
        """

        async def query(index: int) -> QueryResult[tuple[Check, ...]]:
            async for node in self._node:
                if node:
                    return await self._consul.health_node(node, index=index, wait=_WAIT)
            raise AssertionError  # a cell never ends

        def see(shown: tuple[Check, ...]) -> None:
            own = self._wanted()[0].id
            before = checks.objection(self._catalog_checks, own, self._meta)
            self._catalog_checks = shown
            if checks.objection(self._catalog_checks, own, self._meta) != before:
                self.nudge()

        # The last known checks may be outdated while the query fails.
        await follow(
            query, lambda answer: see(answer.value), lambda why: see(()), self._clock, _PACE
        )

    def _read_checks(self, instance: InstanceInfo, observed: ServiceEntry | None) -> None:
        """Read others' checks: from the agent, and from the catalog those that the agent lacks."""
        own = observed.checks if observed else ()
        known = {check.id for check in own}
        found = (*own, *(check for check in self._catalog_checks if check.id not in known))
        self._node.set(observed.node if observed else "")
        self._meta = observed.meta if observed else {}
        self.keeps_entry = registration.maintenance_of_others(observed) is not None
        self.maintained.set(checks.objection(found, instance.id, self._meta))

    async def _reconcile(self) -> None:
        instance, meta = self._wanted()
        observed = await self._consul.agent_service(instance.id)
        if await self._settle_maintenance(instance, observed):
            # It stays as it is, or unregistered; but with an operator's reason, its meta must be
            # up to date. And the agent must be able to remove it.
            why = registration.differences(instance, meta, observed) if self.keeps_entry else ""
            why = why or (await self._other_token(instance) if observed else "")
        else:
            why = await self._deviates(instance, meta, observed)
        if why:
            await self._register(instance, meta, why)

    async def _register(self, instance: InstanceInfo, meta: InstanceMeta, why: str) -> None:
        await self._consul.register_service(registration.registration(instance, meta))
        self._hook(Registered(why))
        self._registrations.set(self._registrations.value + 1)

    async def _other_token(self, instance: InstanceInfo) -> str:
        """Why the agent may be unable to write the entry when a check fails, or ""."""
        return "" if await self._consul.keeps_token(instance.id) else _OTHER_TOKEN

    async def _deviates(
        self, instance: InstanceInfo, meta: InstanceMeta, observed: ServiceEntry | None
    ) -> str:
        """Why the entry must be written, or ""."""
        started = self._registrations.value == 0  # the checks' definitions may have changed
        if (
            why := registration.differences(instance, meta, observed)
            or "the sidecar has started" * started
        ):
            return why
        if why := await self._other_token(instance):
            return why
        answer = await self._consul.health_service(instance.service)
        node = observed.node if observed else ""
        # An entry on a node that the instance has left is not its own, even if it looks right.
        ours = (each for each in answer.value if (each.id, each.node) == (instance.id, node))
        entry = next(ours, None)
        await self._end_stuck_maintenance(instance, observed, entry)
        return self._catalog_deviates(instance, meta, entry)

    async def _settle_maintenance(
        self, instance: InstanceInfo, observed: ServiceEntry | None
    ) -> bool:
        """Correct maintenance mode; returns whether the instance is withdrawn for good."""
        self._read_checks(instance, observed)
        if self._withdrawn:
            if observed and registration.maintenance(observed) is None:
                await self._consul.maintain_service(instance.id, checks.WITHDRAWN)
            return True
        if registration.withdrawn(observed):
            # Left by a sidecar that was killed while draining: maintenance mode outlives it.
            await self._consul.maintain_service(instance.id, None)
        return False

    async def _end_stuck_maintenance(
        self, instance: InstanceInfo, observed: ServiceEntry | None, entry: ServiceEntry | None
    ) -> None:
        """Remove a maintenance from the catalog that the agent has ended.

        An older agent removes a check with the token that added it. If that token was revoked, the
        check stays in the catalog forever, unless it is added again.
        """
        stuck = (
            registration.maintenance(observed) is None
            and registration.maintenance(entry) is not None
        )
        if stuck and self._stuck:  # the catalog has had time to follow
            # The next round ends it, like a predecessor's.
            await self._consul.maintain_service(instance.id, checks.WITHDRAWN)
            self.nudge()
        self._stuck = stuck and not self._stuck

    def _catalog_deviates(
        self, instance: InstanceInfo, meta: InstanceMeta, entry: ServiceEntry | None
    ) -> str:
        """What is wrong in the catalog although the agent's record is right, or "".

        The entry may have been deleted or edited there, which the agent notices after a minute or
        more. Or the agent cannot write it; a registration gives it the current token.
        """
        if entry is None:
            return "not in the catalog"
        if fault := registration.differences(instance, meta, entry):
            return f"the catalog {fault}"
        synced = self._clock.now() - self._status_since > _SYNCED
        if synced and not self._shows_status(instance, entry):
            return f"the catalog does not show that the verdict is {self._status}"
        return ""

    def _shows_status(self, instance: InstanceInfo, entry: ServiceEntry) -> bool:
        shown = {check.id: check.status for check in entry.checks}
        return shown.get(instance.verdict_check) == self._status
