"""Updates the history once the role was taken: what the change cost; drops the oldest entries.

Acts: through what it imports or is given.
"""

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

# Client requests within the last so many seconds, and those that failed; None if no control plane
# counts. Raises `SidecarError` if one that may have counted does not answer now.
Count = Callable[[float], Awaitable[tuple[int, int] | None]]
# Seconds after the acquisition in which Envoys follow and failures are counted.
_AFTER = 3.0
# Counters are read about once a second, so failures shortly before the lock was free count too.
_BEFORE = 3.0
# Seconds between attempts: at first, and at most.
_FIRST, _MOST = 1.0, 60.0


class HistoryUpdate:
    """Completes the entry of each of its own tenures while it lasts, until cancelled.

    Args:
        role_epoch: this instance's role and epoch.
        session: the session that holds the lock, None without it.
        context: what actions are executed with.
        count: returns how many requests clients sent recently, and how many failed.
        clock: times the attempts.
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
        """Complete the entry of one tenure after the other, forever."""
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
            # A claim that was unconfirmed for a while is still the same tenure.
            await first_of(self._clock, pause, self._role_epoch.changed(seen))

    async def _attempt(self, epoch: int, began: float) -> bool:
        session = self._session()
        if session is None:
            return False
        try:
            await self._settle(epoch, session, began)
        except SidecarError:  # the client has reported it
            return False
        return True

    async def _settle(self, epoch: int, session: str, began: float) -> None:
        """Trim the history, and complete the entry of an epoch; only as the lock's holder.

        Idempotent: it skips what an earlier attempt has done.

        Raises:
            Conflict: the lock is no longer held, or the history was edited.
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
        """The entry with what the change has cost so far; None if no control plane counts."""
        span = _BEFORE + (own.without or 0.0) + self._clock.now() - began
        counts = await self._count(span)
        if counts is None:
            return None
        requests, failed = counts
        return replace(own, requests=requests, failed=failed, over=round(span, 1))
