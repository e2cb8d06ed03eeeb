"""What is done when the role was taken: the history is told what it cost, and kept short."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from sidecar.clock import Clock
from sidecar.consul_api import Held, Set
from sidecar.election import history, lock
from sidecar.election.history import Entry
from sidecar.election.perform import Means
from sidecar.errors import SidecarError

# Requests of clients within the last so many seconds, and those that failed; None: nobody counts.
Count = Callable[[float], Awaitable[tuple[int, int] | None]]
# Seconds after the acquisition, within which Envoys have followed and what failed is counted.
_AFTER = 3.0
# Counters are read about once a second: what failed shortly before the lock was free counts too.
_BEFORE = 3.0


async def settle(
    epoch: int,
    session: str,
    means: Means,
    count: Count,
    clock: Clock,
) -> None:
    """Complete the entry of an epoch, and remove the oldest entries; as the holder only.

    Args:
        epoch: the tenure that has just begun.
        session: holds the lock.
        means: what the election acts with.
        count: tells what clients sent lately, and what of it failed.
        clock: tells how long to wait.

    Raises:
        Conflict: the lock is not held any more.
        SidecarError: Consul does not answer.
    """
    await clock.sleep(_AFTER)
    service = means.service
    found = (await means.consul.kv_prefix(history.prefix(service))).value
    own = next((entry for entry in history.read(service, found) if entry.epoch == epoch), None)
    held = Held(lock.lock_key(service), session)
    if own and own.failed is None:
        counted = await _counted(own, count)
        await means.consul.transact(held, Set(history.key(service, own), lock.dumps(counted)))
    while surplus := history.surplus(found):
        await means.consul.transact(held, *surplus)
        gone = {each.key for each in surplus}
        found = tuple(entry for entry in found if entry.key not in gone)


async def _counted(own: Entry, count: Count) -> Entry:
    span = _BEFORE + (own.without or 0.0) + _AFTER
    try:
        told = await count(span)
    except SidecarError:
        told = None
    if told is None:
        return own
    requests, failed = told
    return replace(own, requests=requests, failed=failed, over=round(span, 1))
