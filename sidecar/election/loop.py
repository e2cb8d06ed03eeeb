"""The election loops: one watches the lock, one performs what `decide` says."""

import asyncio
from datetime import UTC, datetime

from sidecar.clock import Clock
from sidecar.consul_api import Answer, ConsulApi, KVEntry
from sidecar.election import decision, lock
from sidecar.election.decision import Action, Intent, Lease, Lock, Role, View
from sidecar.errors import SessionLost, SidecarError
from sidecar.events import Hook, RoleChanged
from sidecar.latest import Latest, first_of
from sidecar.registry.record import Instance
from sidecar.settings.tables import ElectionSettings
from sidecar.watch import follow

_WAIT = 60.0  # seconds that a blocking query may block
_RETRY = 0.5  # seconds between attempts while Consul does not answer or refuses


class Election:
    """Takes part in the election until it is cancelled.

    `standing` is the role with its epoch (0 unless primary). `intent` is written by the owner.
    """

    def __init__(
        self,
        consul: ConsulApi,
        instance: Instance,
        settings: ElectionSettings,
        clock: Clock,
        hook: Hook,
    ) -> None:
        self.intent: Latest[Intent] = Latest(Intent.YIELD)
        self.standing: Latest[tuple[Role, int]] = Latest((Role.STANDBY, 0))
        self._lock: Latest[Lock | None] = Latest(None)
        self._lease = Lease(settings.session_ttl)
        self._session: Latest[str | None] = Latest(None)
        self._since = ""  # when the session was opened
        self._consul = consul
        self._instance = instance
        self._settings = settings
        self._clock = clock
        self._hook = hook

    async def closed(self) -> None:
        """Wait until no session is held any more."""
        async for session in self._session:
            if session is None:
                return

    async def watch(self) -> None:
        """Keep `_lock` as Consul has it, for ever."""
        service = self._instance.service

        async def query(index: int) -> Answer[tuple[KVEntry, ...]]:
            return await self._consul.kv_prefix(lock.prefix(service), index=index, wait=_WAIT)

        def see(answer: Answer[tuple[KVEntry, ...]]) -> None:
            self._lock.set(lock.read(service, answer.value, answer.index))

        await follow(query, see, lambda why: None, self._clock, _RETRY)

    async def run(self) -> None:
        """Decide and act, for ever."""
        while True:
            seen = self.intent.version, self._lock.version
            view = View(self._lock.value, self.intent.value)
            if view.lock is not None:
                self._learn(decision.observe(self._lease, view.lock), "the lock is not ours")
            action = decision.decide(view, self._lease, self._clock.now())
            done = action is not None and await self._act(action)
            self._learn(self._lease, "not renewed in time")
            if not done:
                # Refused or no answer: try again soon. News may come first, such as a free lock.
                soon = self._clock.jitter(_RETRY, 0.5) if action else None
                await self._wait(seen, soon)

    async def _act(self, action: Action) -> bool:
        """Perform one action; whether it brought anything.

        The own claim ends on time also while a request hangs: it is given up then.
        """
        work = asyncio.ensure_future(self._perform(action))
        ended = asyncio.gather(work, return_exceptions=True)
        await first_of(self._clock, decision.remaining(self._lease, self._clock.now()), ended)
        if not work.done():
            return False
        try:
            return work.result()
        except SessionLost as error:
            self._learn(decision.lost(self._lease), str(error))
        except SidecarError:
            pass  # the door has reported it
        return False

    async def _perform(self, action: Action) -> bool:
        sent, lease = self._clock.now(), self._lease
        session = lease.session or ""
        match action:
            case Action.OPEN_SESSION:
                new = await self._consul.session_create(
                    f"triton-sidecar {self._instance.id}",
                    ttl=self._settings.session_ttl,
                    lock_delay=self._settings.lock_delay,
                    service_checks=[self._instance.verdict_check, self._instance.sidecar_check],
                )
                self._since = datetime.now(UTC).isoformat(timespec="milliseconds")
                self._learn(decision.opened(lease, new, sent), "")
            case Action.RENEW_SESSION:
                await self._consul.session_renew(session)
                self._learn(decision.renewed(lease, sent), "session renewed")
            case Action.ACQUIRE:
                return await self._acquire(lease, session)
            case Action.RELEASE:
                await self._consul.release(lock.lock_key(self._instance.service), session)
                self._learn(decision.released(lease), self.intent.value.value)
            case Action.CLOSE_SESSION:
                await self._consul.session_destroy(session)
                self._learn(decision.lost(lease), "")
        return True

    async def _acquire(self, lease: Lease, session: str) -> bool:
        service = self._instance.service
        epoch = await self._consul.acquire(
            lock.lock_key(service),
            lock.epoch_key(service),
            session,
            lock.claim(self._instance.id, session, self._since),
        )
        if epoch is None:
            return False
        self._learn(decision.acquired(lease, epoch), "the lock was free")
        return True

    def _learn(self, lease: Lease, why: str) -> None:
        """Take over a new lease and say what role it makes."""
        self._lease = lease
        self._session.set(lease.session)
        role = decision.role(lease, self._clock.now())
        epoch = lease.epoch if role is Role.PRIMARY else 0
        before, _ = self.standing.value
        self.standing.set((role, epoch))
        if role is not before:
            self._hook(RoleChanged(before, role, epoch, why))

    async def _wait(self, seen: tuple[int, int], at_most: float | None) -> None:
        """Until intent or lock are not the ones seen, or it is time to decide again."""
        now = self._clock.now()
        at = decision.wake_at(self._lease, now)
        pauses = [pause for pause in (at_most, at and at - now) if pause is not None]
        await first_of(
            self._clock,
            min(pauses, default=None),
            self.intent.changed(seen[0]),
            self._lock.changed(seen[1]),
        )
