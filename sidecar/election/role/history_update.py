"""What is done when the role was taken: the history is told what it cost, and kept short."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from sidecar.consul.api import HoldsLock, KVEntry, Set
from sidecar.election.execute import ElectionContext
from sidecar.election.keys import history, lock
from sidecar.election.keys.history import Entry
from sidecar.election.lease import Role
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import SidecarError, Unavailable
from sidecar.runtime.latest import Latest, first_of

# Requests of clients within the last so many seconds, and those that failed; None: nobody counts,
# for certain. A `SidecarError` if somebody who may have counted cannot be asked now.
Count = Callable[[float], Awaitable[tuple[int, int] | None]]
# Seconds after the acquisition, within which Envoys have followed and what failed is counted.
_AFTER = 3.0
# Counters are read about once a second: what failed shortly before the lock was free counts too.
_BEFORE = 3.0
# Seconds between attempts: the first time, and at most.
_FIRST, _MOST = 1.0, 60.0


class HistoryUpdate:
    """Completes the entry of each own tenure while it lasts, until it is cancelled.

    Args:
        standing: this instance's role and epoch.
        session: the session that holds the lock, None without it.
        means: what the election acts with.
        count: tells what clients sent lately, and what of it failed.
        clock: tells how long to wait.
    """

    def __init__(
        self,
        role_epoch: Latest[tuple[Role, int]],
        session: Callable[[], str | None],
        context: ElectionContext,
        count: Count,
        clock: Clock,
    ) -> None:
        self._role_epoch = role_epoch
        self._session = session
        self._context = context
        self._count = count
        self._clock = clock

    async def run(self) -> None:
        """Complete one tenure's entry after the other, for ever."""
        tenure, began, failures, done = 0, 0.0, 0, True
        while True:
            seen, (role, epoch) = self._role_epoch.version, self._role_epoch.value
            if role is Role.PRIMARY and epoch != tenure:
                tenure, began, failures, done = epoch, self._clock.now(), 0, False
            pause = None
            if role is Role.PRIMARY and not done:
                pause = began + _AFTER - self._clock.now()
                if pause <= 0:
                    done = await self._attempt(epoch, began)
                    again = min(_FIRST * 2.0 ** min(failures, 16), _MOST)
                    failures += 1
                    pause = None if done else self._clock.jitter(again, 0.3)
            # A claim that is not confirmed for a while is the same tenure when it is again.
            await first_of(self._clock, pause, self._role_epoch.changed(seen))

    async def _attempt(self, epoch: int, began: float) -> bool:
        session = self._session()
        if session is None:
            return False
        try:
            await self._settle(epoch, session, began)
        except SidecarError:  # the door has reported it
            return False
        return True

    async def _settle(self, epoch: int, session: str, began: float) -> None:
        """Keep the history short, and complete the entry of an epoch; as the holder only.

        What an earlier attempt has done is found done.

        Raises:
            Conflict: the lock is not held any more, or somebody else has edited the history.
            SidecarError: Consul does not answer, or does not show the entry.
        """
        service, held = (
            self._context.service,
            HoldsLock(lock.lock_key(self._context.service), session),
        )
        found = (await self._context.consul.kv_prefix(history.prefix(service))).value
        await self._trim(held, found)
        own = next((entry for entry in history.read(service, found) if entry.epoch == epoch), None)
        if own is None:
            raise Unavailable(f"Consul does not show the history's entry of epoch {epoch}")
        if own.failed is None and (counted := await self._counted(own, began)):
            key = history.key(service, own)
            index = next(entry.modify_index for entry in found if entry.key == key)
            await self._context.consul.transact(held, Set(key, lock.dumps(counted), index))

    async def _trim(self, held: HoldsLock, found: tuple[KVEntry, ...]) -> None:
        while surplus := history.surplus(found):
            await self._context.consul.transact(held, *surplus)
            gone = {each.key for each in surplus}
            found = tuple(entry for entry in found if entry.key not in gone)

    async def _counted(self, own: Entry, began: float) -> Entry | None:
        """The entry with what the change cost until now; None if nobody counts."""
        span = _BEFORE + (own.without or 0.0) + self._clock.now() - began
        told = await self._count(span)
        if told is None:
            return None
        requests, failed = told
        return replace(own, requests=requests, failed=failed, over=round(span, 1))
