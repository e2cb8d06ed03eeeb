"""What the package asks of Consul, and what it gets: values and a protocol, no I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

T = TypeVar("T")
Status = Literal["passing", "warning", "critical"]
_SEVERITY = ("passing", "warning", "critical")


@dataclass(frozen=True, slots=True)
class Check:
    """One health check as Consul's catalog or agent shows it."""

    id: str
    name: str
    status: str
    output: str
    service_id: str
    notes: str = ""


@dataclass(frozen=True, slots=True)
class ServiceEntry:
    """One instance of a service with its checks.

    `node` is its node, and the node's own checks are among the checks. As read from the local agent
    there is neither the node's meta nor `serfHealth`, which is the servers' opinion of the agent.
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
        """The worst status among the checks; `critical` outranks `warning` outranks `passing`."""
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
    """Write a key; where `index` is given, only if that is its ModifyIndex (0: it is not there)."""

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
    """Write a key and free it, if the session holds it."""

    key: str
    value: bytes
    session: str


@dataclass(frozen=True, slots=True)
class HoldsLock:
    """Go on only if the session holds the key."""

    key: str
    session: str


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Go on only if `index` is still the key's ModifyIndex; `Delete` takes what is gone already."""

    key: str
    index: int


Operation = Set | Delete | Lock | Unlock | HoldsLock | Unchanged


@dataclass(frozen=True, slots=True)
class QueryResult(Generic[T]):
    """A read: the value, the index to block on, and whether the servers have a leader.

    One that is `streamed` comes from a view that the agent keeps (Consul 1.10 and later, for
    blocking queries on health). It shows the newest that the agent has heard, goes on doing so when
    all servers are gone, and says nothing about a leader: `known_leader` is False then.
    One that is `filtered` lacks what the token may not read; Consul tells since 1.11 (before that,
    and in what is streamed, it is always False).
    """

    value: T
    index: int
    known_leader: bool
    streamed: bool = False
    filtered: bool = False


class ConsulApi(Protocol):
    """What the rest of the package asks of Consul. The fake in the tests implements it too."""

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

        `dc` names another datacenter than the agent's own. What is `streamed` can be minutes old:
        if that is not wanted the servers answer a query that blocks as well. An agent that has not
        heard of the service from any server yet has no empty list of it: it is `Unavailable`.
        """

    async def health_node(
        self, node: str, *, index: int = 0, wait: float = 0
    ) -> QueryResult[tuple[Check, ...]]:
        """All checks of a node and of the services on it, sorted; blocks as `health_service` does.

        It is always the servers that answer, and only a change on this node wakes a query that
        waits. Of a node that the token may not read there is none.
        """

    async def sees_all(self, name: str) -> bool:
        """Whether the token may see all instances of a service there could be, on every node.

        Without that right an instance is left out of `health_service`, as if it were not there.
        """

    async def kv_prefix(
        self, prefix: str, *, index: int = 0, wait: float = 0, consistent: bool = False
    ) -> QueryResult[tuple[KVEntry, ...]]:
        """The keys below a prefix, sorted; blocks as `health_service` does.

        A key that the token may not read is left out, as if it were not there.
        """

    async def kv(self, key: str, *, consistent: bool = False) -> QueryResult[KVEntry | None]:
        """One key, or None if it is not there; `Rejected` if the token may not read it."""

    async def register_service(self, registration: Mapping[str, Any]) -> None:
        """Register a service and its checks with the local agent; other checks of it stay."""

    async def keeps_token(self, service_id: str) -> bool:
        """Whether the agent writes a service to the catalog with the token that is used now.

        It writes with the token of the last registration, now and when a check fails later, and
        says nothing where that has been revoked. Of a registration that this process has not made
        nothing is known, which is False.
        """

    async def deregister_service(self, service_id: str) -> None:
        """Take a service from the local agent; one that is not there is fine.

        Older agents take it from the catalog with the token that they keep: see `keeps_token`.
        """

    async def maintain_service(self, service_id: str, reason: str | None) -> None:
        """Put a service into maintenance mode, or take it out if there is no reason.

        A service in it is withdrawn, its sessions are kept, and its maintenance check shows the
        reason in its notes. `NotFound` if the agent does not know the service.
        """

    async def agent_service(self, service_id: str) -> ServiceEntry | None:
        """A service of the local agent, with its checks and those of the node, or None."""

    async def update_check(self, check_id: str, status: Status, output: str) -> None:
        """Set a TTL check of the local agent; `NotFound` if the agent does not know it."""

    async def session_create(
        self, name: str, *, ttl: float, lock_delay: float, service_checks: Sequence[str]
    ) -> str:
        """A session of the local node, bound to serfHealth and to the named service checks."""

    async def session_renew(self, session: str) -> None:
        """Renew a session's TTL; `SessionLost` if it is gone."""

    async def session_destroy(self, session: str) -> None:
        """Destroy a session; one that is gone is fine."""

    async def transact(self, *operations: Operation) -> Mapping[str, int]:
        """Do all of it at once, or nothing; gives the ModifyIndex of each key that was written.

        One transaction gives all keys that it changes the same index. Consul leaves the index
        alone when a write changes nothing, so a value that has to get a new one must differ.

        Raises:
            Conflict: something is not as the operations want it: another session holds the lock
                or its lock-delay runs, the session does not hold it, an index is not the newest.
            SessionLost: the session of a `Lock` is gone.
        """


def missing_rights(service: str) -> str:
    """What a token lacks that may not see all instances of a service."""
    return (
        f"the ACL token may not see all of {service}: it needs service:read for {service!r} and"
        ' node:read for every node (node_prefix "")'
    )


def cut(text: str, limit: int) -> str:
    """`text`, cut so that it takes at most `limit` bytes in UTF-8."""
    return text.encode()[:limit].decode(errors="ignore")


def next_index(previous: int, answered: int) -> int:
    """The index for the next blocking query.

    An index that went backwards means that the servers lost or restored their state: start over
    from 0. One below 1 would never block. Source: Consul's documentation of blocking queries.
    """
    return 0 if answered < previous else max(1, answered)


def _severity(status: str) -> int:
    # Consul knows no fourth status; were there one, it would not mean healthy.
    return _SEVERITY.index(status) if status in _SEVERITY else len(_SEVERITY)
