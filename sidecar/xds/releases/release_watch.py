"""Guards releases: one that does badly is rolled back here at once, and then in Consul.

Rolled back here means that the control plane publishes as if the policy said so. That needs no
Consul, and lasts until a different policy is set, even across a restart of the control plane.

Acts: asyncio.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from sidecar.consul.api import ConsulApi, Set
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import Conflict, SidecarError
from sidecar.runtime.latest import Latest, first_of
from sidecar.traffic.document import dump, parse, policy_key
from sidecar.traffic.guard import Observation, Rollback, judge
from sidecar.traffic.policy import Release
from sidecar.xds.catalog.catalog import Catalog, ServiceCatalog
from sidecar.xds.config.endpoints import share
from sidecar.xds.releases.rollbacks import with_rollbacks

_RETRY = 1.0  # seconds between attempts to write a rollback, or to see it in force


class Counting(Protocol):
    """The source of request outcomes; see `EnvoyCounters`."""

    looks: Latest[int]

    @property
    def blind(self) -> bool:
        """Whether there is no Envoy to read."""

    def released(self, service: str, since: float, window: float) -> Observation:
        """The outcome of the requests to a release within the last `window` seconds."""


class ReleaseListener(Protocol):
    """Gets events of releases, for metrics and logs."""

    def guard_blind(self, service: str) -> None:
        """The release has a guard without any data."""

    def guard_tripped(self, service: str, why: str) -> None:
        """The release was rolled back here."""

    def rollback_kept(self, service: str, why: str) -> None:
        """It was rolled back before a restart, and still is."""

    def rollback_written(self, service: str, why: str) -> None:
        """Its document in Consul now says so."""

    def rollback_unwritten(self, service: str, why: str) -> None:
        """It could not be written, or read; this will be retried."""

    def rollback_ended(self, service: str) -> None:
        """The document now says so too, or orders something else."""


class ReleaseWatch:
    """The guards of all releases.

    `rollbacks` holds by service what was rolled back here and is still ordered, as far as known; it
    is kept across restarts. `published` is the catalog with them applied.
    """

    def __init__(
        self,
        catalog: Latest[Catalog | None],
        counting: Counting,
        consul: ConsulApi,
        clock: Clock,
        listener: ReleaseListener,
        kept: Mapping[str, Rollback] | None = None,
    ) -> None:
        """`catalog` has the policies as ordered; `kept` are rollbacks from before a restart."""
        self.rollbacks: Latest[dict[str, Rollback]] = Latest(dict(kept or {}))
        self.published: Latest[Catalog | None] = Latest(None)
        self._catalog = catalog
        self._counting = counting
        self._consul = consul
        self._clock = clock
        self._listener = listener
        # Since when (monotonic seconds) a service has had its release.
        self._since: dict[str, tuple[Release | None, float]] = {}

    async def run(self) -> None:
        """Watch until cancelled."""
        for name, rollback in self.rollbacks.value.items():
            self._listener.rollback_kept(name, rollback.why)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._publish())
            tasks.create_task(self._watch())
            # Separate: a rollback must not wait for Consul.
            tasks.create_task(self._write_down())

    async def _publish(self) -> None:
        while True:
            news = [cell.changed(cell.version) for cell in (self._catalog, self.rollbacks)]
            if (catalog := self._catalog.value) is not None:
                self.published.set(with_rollbacks(catalog, self.rollbacks.value))
            await first_of(self._clock, None, *news)

    async def _watch(self) -> None:
        while True:
            news = [cell.changed(cell.version) for cell in (self._catalog, self._counting.looks)]
            self._look()
            await first_of(self._clock, None, *news)

    def _look(self) -> None:
        catalog = self._catalog.value
        if catalog is None:
            return  # the policies are not known yet
        held = {each.name: self._judged(each) for each in catalog.services}
        self._replace({name: rollback for name, rollback in held.items() if rollback})

    def _judged(self, service: ServiceCatalog) -> Rollback | None:
        """The rollback that is in force, or begins now."""
        release, now = service.policy.release, self._clock.now()
        judged, since = self._since.get(service.name, (None, now))
        if judged != release:
            since = now
            if release and release.guard and self._counting.blind:
                self._listener.guard_blind(service.name)
        self._since[service.name] = release, since
        before = self.rollbacks.value.get(service.name)
        # No release may just mean that the policy was not read yet.
        known = service.settled or release is not None
        if before and (before.applies(release) or not known):
            return before
        if release is None or release.guard is None or not share(service.policy):
            return None
        seen = self._counting.released(service.name, since, release.guard.window)
        why = judge(release.guard, seen)
        if why is None:
            return None
        self._listener.guard_tripped(service.name, why)
        return Rollback(release, why)

    def _replace(self, found: dict[str, Rollback]) -> None:
        """Make these the rollbacks in force."""
        for name in self.rollbacks.value.keys() - found.keys():
            self._listener.rollback_ended(name)
        self.rollbacks.set(found)

    async def _write_down(self) -> None:
        while True:
            version = self.rollbacks.version
            for name, rollback in self.rollbacks.value.items():
                try:
                    await self._settle(name, rollback)
                except Conflict:
                    continue  # another control plane was faster: its document is read next time
                except SidecarError as error:
                    self._listener.rollback_unwritten(name, str(error))
            # Still in force: not written yet, not seen by the watch yet, or ordered again.
            pause = _RETRY if self.rollbacks.value else None
            await first_of(self._clock, pause, self.rollbacks.changed(version))

    async def _settle(self, name: str, rollback: Rollback) -> None:
        """Write it into the document that orders the release, or verify that none does."""
        key = policy_key(name)
        answer = await self._consul.kv_prefix(key, consistent=True)
        entry = next((entry for entry in answer.value if entry.key == key), None)
        if entry is None or self.rollbacks.value.get(name) != rollback:
            return
        policy = parse(entry.value)
        if policy.release is None or not rollback.applies(policy.release):
            self._answer(name, rollback, entry.modify_index)
        elif 0 < rollback.answered < entry.modify_index:
            self._ordered_again(name)
        else:
            document = dump(rollback.apply_to(policy)).encode()
            written = await self._consul.transact(Set(key, document, entry.modify_index))
            self._answer(name, rollback, written[key])
            self._listener.rollback_written(name, rollback.why)

    def _answer(self, name: str, rollback: Rollback, index: int) -> None:
        """Remember which document does not order the release, while that matters."""
        if self.rollbacks.value.get(name) == rollback:
            answered = replace(rollback, answered=index)
            self.rollbacks.set(self.rollbacks.value | {name: answered})

    def _ordered_again(self, name: str) -> None:
        """An operator ordered the same release again: it gets another chance from now on."""
        rollback = self.rollbacks.value[name]
        self._since[name] = rollback.release, self._clock.now()
        self._replace(
            {other: each for other, each in self.rollbacks.value.items() if other != name}
        )
