"""The operator's reads and edits of a service's traffic policy in Consul.

Acts: asyncio.
"""

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

_ATTEMPTS = 5  # to change a key that others change at the same time


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """The policy in Consul; `index` is the key's ModifyIndex, 0 if there is no policy.

    `policy` is None if it cannot be read; `why` then says why.
    """

    index: int = 0
    policy: TrafficPolicy | None = DEFAULTS
    why: str = ""

    def readable(self) -> TrafficPolicy:
        """The policy.

        Raises:
            ConfigError: it cannot be read.
        """
        if self.policy is None:
            raise ConfigError(self.why)
        return self.policy


@dataclass(frozen=True, slots=True)
class PolicyEdit:
    """A change from one policy to another; `policy_warnings` are for the operator."""

    seen: StoredPolicy
    after: TrafficPolicy
    warnings: tuple[str, ...] = ()

    @property
    def changes(self) -> tuple[Change, ...]:
        """The keys that differ; all that the new policy sets if the old one cannot be read."""
        return document.changes(self.seen.policy or DEFAULTS, self.after)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return self.seen.policy is not None and not self.changes


async def read(client: OperatorClient) -> StoredPolicy:
    """Read the service's policy.

    Raises:
        SidecarError: Consul does not answer or refuses, or its servers have no leader.
    """
    key = document.policy_key(client.service)
    answer = await client.consul.kv_prefix(key, consistent=True)
    if not answer.known_leader:
        raise Unavailable("Consul's servers have no leader")
    return next((_stored(entry) for entry in answer.value if entry.key == key), StoredPolicy())


async def plan(client: OperatorClient, after: TrafficPolicy) -> PolicyEdit:
    """The edit that sets a policy, with warnings.

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
    """Write a policy over the one that was read, if they differ.

    Raises:
        Conflict: the policy has changed since.
        SidecarError: Consul does not answer or refuses.
    """
    if edit.empty:
        return
    key, value = document.policy_key(client.service), document.dump(edit.after).encode()
    try:
        await client.consul.transact(Set(key, value, edit.seen.index))
    except Conflict:
        raise Conflict("the policy was just changed; see `policy diff`") from None


async def promote(client: OperatorClient) -> PolicyEdit:
    """Send all requests to the release.

    Raises:
        Conflict: there is none, it was rolled back, or the policy keeps changing.
        ConfigError: the policy cannot be read.
        SidecarError: Consul does not answer or refuses.
    """
    return await _change(client, release.promoted)


async def roll_back(client: OperatorClient, reason: str) -> PolicyEdit:
    """Send no request to the release; its percentage stays visible.

    Raises:
        Conflict: there is none, or the policy keeps changing.
        ConfigError: the policy cannot be read.
        SidecarError: Consul does not answer or refuses.
    """
    text = f"by {client.by} at {timestamp(client.clock.wall())}" + (f": {reason}" if reason else "")
    return await _change(client, lambda before: release.rolled_back(before, text))


async def reset(client: OperatorClient) -> StoredPolicy:
    """Remove the policy, even an unreadable one; returns what it was.

    Raises:
        Conflict: it keeps changing.
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
    """Apply a change to the present policy; retries if it was changed in between."""
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
