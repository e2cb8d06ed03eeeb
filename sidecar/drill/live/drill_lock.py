"""The lock of a drill: a session that is renewed, and the order under it.

If this process is killed or frozen, the session ends by its TTL (Consul grants up to twice as
much), and with it the fault; the victim's own time limit may be shorter.

Acts: asyncio.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from sidecar.consul.api import HoldsLock, Lock, Set, Unlock
from sidecar.drill.live import precheck
from sidecar.election.keys import lock
from sidecar.injection import keys
from sidecar.injection.keys import DrillKeys, Order
from sidecar.operator.operator_client import OperatorClient
from sidecar.runtime.errors import Conflict, SessionLost, SidecarError, Unavailable
from sidecar.runtime.latest import Latest

_TTL = 10.0  # seconds, Consul's shortest
_NAME = "triton-sidecar drill"


class DrillLock:
    """The lock that one drill holds. `lost` says why it is gone, or is empty."""

    def __init__(self, client: OperatorClient, order: Order, session: str) -> None:
        self.order = order
        self.lost = Latest("")
        self._client = client
        self._session = session
        self._key = keys.order_key(client.service)

    async def keep(self) -> None:
        """Renew the session, until cancelled or it is lost."""
        clock, confirmed = self._client.clock, self._client.clock.now()
        while not self.lost.value:
            await clock.sleep(_TTL / 4)
            sent = clock.now()
            try:
                await self._client.consul.session_renew(self._session)
                confirmed = sent
            except SessionLost as error:
                self.lost.set(str(error))
            except SidecarError as error:
                if clock.now() >= confirmed + _TTL:
                    self.lost.set(str(error))

    async def write(self, order: Order) -> None:
        """Replace the order, as long as the lock is held.

        Raises:
            Conflict: the lock is lost.
            SidecarError: Consul does not answer or refuses.
        """
        held = HoldsLock(self._key, self._session)
        self.order = order  # before an answer to it can be seen
        await self._client.consul.transact(held, Set(self._key, lock.dumps(order)))

    async def release(self) -> None:
        """Release the lock and end the session; errors are raised after both were tried."""
        consul, ended = self._client.consul, replace(self.order, fault="")
        try:
            await consul.transact(Unlock(self._key, lock.dumps(ended), self._session))
        except Conflict:  # lost already
            pass
        finally:
            await consul.session_destroy(self._session)


async def take(client: OperatorClient, order: Order) -> DrillLock:
    """Take the lock.

    Raises:
        DrillRefused: another drill holds it.
        SidecarError: Consul does not answer or refuses.
    """
    consul, key = client.consul, keys.order_key(client.service)
    session = await consul.session_create(_NAME, ttl=_TTL, lock_delay=0.0, service_checks=())
    try:
        await consul.transact(Lock(key, lock.dumps(order), session))
    except Conflict:
        await consul.session_destroy(session)
        raise precheck.held((await read(client)).order) from None
    except BaseException:
        await consul.session_destroy(session)
        raise
    return DrillLock(client, order, session)


@asynccontextmanager
async def holding(client: OperatorClient, order: Order) -> AsyncIterator[DrillLock]:
    """Hold the lock while the context lasts. Errors are those of `take`."""
    held = await take(client, order)
    keeping = asyncio.create_task(held.keep())
    try:
        yield held
    finally:
        await uninterrupted(_release(held, keeping))


async def uninterrupted(work: Awaitable[None]) -> None:
    """Wait until work is done, also if this task is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        if not task.cancelled():
            task.exception()  # the cancellation replaces it
        raise


async def _release(held: DrillLock, keeping: asyncio.Task[None]) -> None:
    keeping.cancel()
    await asyncio.wait((keeping,))
    with suppress(SidecarError):  # the session ends by its TTL
        await held.release()


async def read(client: OperatorClient) -> DrillKeys:
    """The drill's keys.

    Raises:
        Unavailable: Consul does not answer, or its servers have no leader.
        Rejected: Consul refuses the token.
    """
    answer = await client.consul.kv_prefix(keys.prefix(client.service), consistent=True)
    if not answer.known_leader:
        raise Unavailable("Consul's servers have no leader")
    return keys.read(client.service, answer.value)
