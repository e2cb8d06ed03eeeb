"""Consul's API as the package uses it: values and a protocol, no I/O. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

T = TypeVar("T")
Status = Literal["passing", "warning", "critical"]
_SEVERITY = ("passing", "warning", "critical")


@dataclass(frozen=True, slots=True)
class Check:
    """One health check, as the catalog or the agent shows it."""

    id: str
    name: str
    status: str
    output: str
    service_id: str
    notes: str = ""


@dataclass(frozen=True, slots=True)
class ServiceEntry:
    """One instance of a service with its checks.

    `checks` include those of its node. An entry read from the local agent has neither the node's
    meta nor `serfHealth`, which is the servers' view of the agent.
    """

    node: str
    id: str
    name: str
    address: str
    port: int
    tags: tuple[str, ...]
    meta: Mapping[str, str]
    weight_passing: int
    weight_warning: int
    checks: tuple[Check, ...]
    node_meta: Mapping[str, str] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """The worst status of the checks: `critical`, then `warning`, then `passing`."""
        return max((check.status for check in self.checks), key=_severity, default="passing")


@dataclass(frozen=True, slots=True)
class KVEntry:
    """One key. `modify_index` grows with every write; `session` is the lock's holder."""

    key: str
    value: bytes
    session: str | None
    modify_index: int
    lock_index: int
    create_index: int = 0


@dataclass(frozen=True, slots=True)
class Set:
    """Write a key; with `index`, only if that is its ModifyIndex (0: the key does not exist)."""

    key: str
    value: bytes
    index: int | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a key if `index` is still its ModifyIndex."""

    key: str
    index: int


@dataclass(frozen=True, slots=True)
class Lock:
    """Write a key and lock it with a session."""

    key: str
    value: bytes
    session: str


@dataclass(frozen=True, slots=True)
class Unlock:
    """Write a key and release its lock, if the session holds it."""

    key: str
    value: bytes
    session: str


@dataclass(frozen=True, slots=True)
class HoldsLock:
    """Fail the transaction unless the session holds the key."""

    key: str
    session: str


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Fail the transaction unless `index` is the key's ModifyIndex; `Delete` accepts a gone key."""

    key: str
    index: int


Operation = Set | Delete | Lock | Unlock | HoldsLock | Unchanged


@dataclass(frozen=True, slots=True)
class QueryResult(Generic[T]):
    """The result of a read: the value, the index to block on, and whether there is a leader.

    A `streamed` result comes from the agent's materialized view (Consul 1.10 and later, for
    blocking queries on health). It is the newest state that the agent received, even after all
    servers are gone, and says nothing about a leader: `known_leader` is False then.
    A `filtered` result lacks what the token may not read. Consul marks it since 1.11; before that,
    and in streamed results, it is always False.
    """

    value: T
    index: int
    known_leader: bool
    streamed: bool = False
    filtered: bool = False


class ConsulApi(Protocol):
    """The Consul operations that the package uses. The tests' FakeConsul implements it too."""

    async def health_service(
        self,
        name: str,
        *,
        index: int = 0,
        wait: float = 0,
        consistent: bool = False,
        dc: str = "",
        streamed: bool = True,
    ) -> QueryResult[tuple[ServiceEntry, ...]]:
        """The instances of a service, sorted by id; blocks up to `wait` seconds if `index` > 0.

        `dc` names a datacenter other than the agent's. A streamed result can be minutes old;
        without `streamed` the servers answer blocking queries too. `Unavailable` if the agent has
        not received the service from any server yet, which is not the same as an empty list.
        """

    async def health_node(
        self, node: str, *, index: int = 0, wait: float = 0
    ) -> QueryResult[tuple[Check, ...]]:
        """All checks of a node and of the services on it, sorted; blocks as `health_service` does.

        The servers always answer it, and only a change on this node wakes a blocked query. Checks
        of a node that the token may not read are left out.
        """

    async def sees_all(self, name: str) -> bool:
        """Whether the token may see every possible instance of a service, on every node.

        Without that right, `health_service` leaves instances out as if they did not exist.
        """

    async def kv_prefix(
        self, prefix: str, *, index: int = 0, wait: float = 0, consistent: bool = False
    ) -> QueryResult[tuple[KVEntry, ...]]:
        """The keys below a prefix, sorted; blocks as `health_service` does.

        A key that the token may not read is left out as if it did not exist.
        """

    async def kv(self, key: str, *, consistent: bool = False) -> QueryResult[KVEntry | None]:
        """One key, or None if it does not exist; `Rejected` if the token may not read it."""

    async def register_service(self, registration: Mapping[str, Any]) -> None:
        """Register a service and its checks with the local agent; its other checks stay."""

    async def keeps_token(self, service_id: str) -> bool:
        """Whether the agent syncs a service to the catalog with the current token.

        It syncs with the token of the last registration, also when a check fails later, and
        reports nothing if that token has been revoked. False for a registration that this process
        did not make, about which nothing is known.
        """

    async def deregister_service(self, service_id: str) -> None:
        """Deregister a service from the local agent; an unknown one is no error.

        Older agents remove it from the catalog with the token they keep: see `keeps_token`.
        """

    async def maintain_service(self, service_id: str, reason: str | None) -> None:
        """Put a service into maintenance mode, or take it out if `reason` is None.

        Maintenance withdraws the service but keeps its sessions; the maintenance check has the
        reason in its notes. `NotFound` if the agent does not know the service.
        """

    async def agent_service(self, service_id: str) -> ServiceEntry | None:
        """A service of the local agent, with its checks and those of the node, or None."""

    async def update_check(self, check_id: str, status: Status, output: str) -> None:
        """Set a TTL check of the local agent; `NotFound` if the agent does not know it."""

    async def session_create(
        self, name: str, *, ttl: float, lock_delay: float, service_checks: Sequence[str]
    ) -> str:
        """Create a session of the local node, bound to serfHealth and the named service checks."""

    async def session_renew(self, session: str) -> None:
        """Renew a session's TTL; `SessionLost` if it is gone."""

    async def session_destroy(self, session: str) -> None:
        """Destroy a session; one that is gone is no error."""

    async def transact(self, *operations: Operation) -> Mapping[str, int]:
        """Apply all operations or none; returns the ModifyIndex of each key that was written.

        All keys that a transaction changes get the same index. A write that changes nothing leaves
        the index alone, so a value that needs a new index must differ.

        Raises:
            Conflict: a precondition does not hold: another session holds the lock or its
                lock-delay runs, the session does not hold it, an index is outdated.
            SessionLost: the session of a `Lock` is gone.
        """


def missing_rights(service: str) -> str:
    """The rights that a token lacks if it may not see all instances of a service."""
    return (
        f"the ACL token may not see all of {service}: it needs service:read for {service!r} and"
        ' node:read for every node (node_prefix "")'
    )


def cut(text: str, limit: int) -> str:
    """`text`, cut to at most `limit` bytes of UTF-8."""
    return text.encode()[:limit].decode(errors="ignore")


def next_index(previous: int, answered: int) -> int:
    """The index for the next blocking query.

    An index that went backwards means that the servers lost or restored their state: start over
    from 0. An index below 1 would never block. Source: Consul's documentation of blocking queries.
    """
    return 0 if answered < previous else max(1, answered)


def _severity(status: str) -> int:
    # Consul has no fourth status; if it had one, it would not mean healthy.
    return _SEVERITY.index(status) if status in _SEVERITY else len(_SEVERITY)
