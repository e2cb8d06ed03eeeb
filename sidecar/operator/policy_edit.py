"""What an operator does to the traffic policy of a service."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from sidecar.consul.api import Delete, KVEntry, Set
from sidecar.operator.operator_client import OperatorClient
from sidecar.registry.duplicate_entries import fold
from sidecar.runtime.errors import ConfigError, Conflict, SidecarError, Unavailable
from sidecar.runtime.timestamps import timestamp
from sidecar.traffic import document, release
from sidecar.traffic.document import Change
from sidecar.traffic.policy import DEFAULTS, TrafficPolicy
from sidecar.traffic.warnings import policy_warnings

_ATTEMPTS = 5  # at changing what somebody else changes at the same time


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """What Consul holds; `index` is the key's ModifyIndex, 0 if there is no policy.

    `policy` is None where it cannot be read, and `why` then says why.
    """

    index: int = 0
    policy: TrafficPolicy | None = DEFAULTS
    why: str = ""

    def readable(self) -> TrafficPolicy:
        """The policy.

        Raises:
            ConfigError: what is there is none.
        """
        if self.policy is None:
            raise ConfigError(self.why)
        return self.policy


@dataclass(frozen=True, slots=True)
class PolicyEdit:
    """One policy instead of another; `policy_warnings` are what the operator should know."""

    seen: StoredPolicy
    after: TrafficPolicy
    doubts: tuple[str, ...] = ()

    @property
    def changes(self) -> tuple[Change, ...]:
        """The keys that differ; all that the new one sets, where the old one cannot be read."""
        return document.changes(self.seen.policy or DEFAULTS, self.after)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return self.seen.policy is not None and not self.changes


async def read(client: OperatorClient) -> StoredPolicy:
    """The policy of the service, as it is now.

    Raises:
        SidecarError: Consul does not answer or refuses, or its servers have no leader.
    """
    key = document.policy_key(client.service)
    answer = await client.consul.kv_prefix(key, consistent=True)
    if not answer.known_leader:
        raise Unavailable("Consul's servers have no leader")
    return next((_stored(entry) for entry in answer.value if entry.key == key), StoredPolicy())


async def plan(client: OperatorClient, after: TrafficPolicy) -> PolicyEdit:
    """What it would mean to set a policy.

    Raises:
        SidecarError: Consul does not answer or refuses.
    """
    seen, catalog = await asyncio.gather(
        read(client),
        client.consul.health_service(client.service, consistent=True),
        return_exceptions=True,
    )
    if isinstance(seen, BaseException):
        raise seen
    if isinstance(catalog, SidecarError):
        # A token that may write the policy need not be allowed to see the instances.
        return PolicyEdit(seen, after, (f"its instances were not checked: {catalog}",))
    if isinstance(catalog, BaseException):
        raise catalog
    return PolicyEdit(
        seen, after, tuple(policy_warnings(seen.policy or DEFAULTS, after, fold(catalog.value)))
    )


async def write(client: OperatorClient, edit: PolicyEdit) -> None:
    """Write a policy in the place of the one that was seen, if they differ.

    Raises:
        Conflict: somebody else was faster.
        SidecarError: Consul does not answer or refuses.
    """
    if edit.empty:
        return
    key, value = document.policy_key(client.service), document.dump(edit.after).encode()
    try:
        await client.consul.transact(Set(key, value, edit.seen.index))
    except Conflict:
        raise Conflict("somebody else just changed the policy; see `policy diff`") from None


async def promote(client: OperatorClient) -> PolicyEdit:
    """Send all requests to the release.

    Raises:
        Conflict: there is none, it was rolled back, or the policy changes all the time.
        ConfigError: the policy cannot be read.
        SidecarError: Consul does not answer or refuses.
    """
    return await _change(client, release.promoted)


async def roll_back(client: OperatorClient, reason: str) -> PolicyEdit:
    """Send no request to the release; its percentage stays, for those who look.

    Raises:
        Conflict: there is none, or the policy changes all the time.
        ConfigError: the policy cannot be read.
        SidecarError: Consul does not answer or refuses.
    """
    told = f"by {client.by} at {timestamp(client.clock.wall())}" + (f": {reason}" if reason else "")
    return await _change(client, lambda before: release.rolled_back(before, told))


async def reset(client: OperatorClient) -> StoredPolicy:
    """Remove the policy, also one that cannot be read; gives what it was.

    Raises:
        Conflict: it changes all the time.
        SidecarError: Consul does not answer or refuses.
    """
    for _ in range(_ATTEMPTS):
        seen = await read(client)
        if not seen.index:
            return seen
        try:
            await client.consul.transact(Delete(document.policy_key(client.service), seen.index))
        except Conflict:
            continue
        return seen
    raise Conflict("the policy keeps changing; try again")


async def _change(
    client: OperatorClient, change: Callable[[TrafficPolicy], TrafficPolicy]
) -> PolicyEdit:
    """Change the policy as it is when it is written."""
    for _ in range(_ATTEMPTS):
        seen = await read(client)
        edit = PolicyEdit(seen, change(seen.readable()))
        try:
            await write(client, edit)
        except Conflict:
            continue
        return edit
    raise Conflict("the policy keeps changing; try again")


def _stored(entry: KVEntry) -> StoredPolicy:
    try:
        return StoredPolicy(entry.modify_index, document.parse(entry.value))
    except ConfigError as error:
        lines = "\n".join(f"{entry.key}: {line}" for line in str(error).splitlines())
        return StoredPolicy(entry.modify_index, None, lines)
