"""A model of Consul: the rules that the client relies on, in memory, on a given clock.

`ConsulModel` is synchronous and takes the time with each call, so that a state machine can drive
it; `FakeConsul` makes it a `ConsulApi` and passes the contract suite that a real agent passes.

A `Generation` stands for versions of Consul that behave alike. The client hides most differences;
the rest of the package can only notice whether the servers or a view answer a blocking query.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, TypeVar

from sidecar.consul.api import (
    Check,
    Delete,
    HoldsLock,
    KVEntry,
    Lock,
    Operation,
    QueryResult,
    ServiceEntry,
    Set,
    Status,
    Unchanged,
    Unlock,
    cut,
)
from sidecar.consul.client import MAX_OUTPUT
from sidecar.runtime.clock import Clock, SystemClock
from sidecar.runtime.errors import Conflict, NotFound, Rejected, SessionLost, Unavailable

T = TypeVar("T")
NODE = "node"
# The fields that all versions from 1.8 on accept; they reject a registration with any other.
_SERVICE_FIELDS = {
    "ID", "Name", "Tags", "Address", "TaggedAddresses", "Meta", "Port", "Check", "Checks",
    "Weights", "EnableTagOverride",
}  # fmt: skip
_CHECK_FIELDS = {
    "CheckID", "Name", "Notes", "Status", "TTL", "GRPC", "GRPCUseTLS", "TCP", "Interval", "Timeout",
    "TLSSkipVerify", "SuccessBeforePassing", "FailuresBeforeCritical",
    "DeregisterCriticalServiceAfter",
}  # fmt: skip
_SERF = Check("serfHealth", "Serf Health Status", "passing", "Agent alive and reachable", "")


class Generation(Enum):
    """The versions of Consul that behave alike, as far as the client shows differences."""

    CLASSIC = "1.8"
    """The servers answer every read."""
    STREAMING = "1.10"
    """The agent answers blocking queries on services from a view that it keeps of each."""


class Servers(Enum):
    """The state of Consul's servers, as seen by a running agent."""

    LEADING = "leading"
    LEADERLESS = "leaderless"
    GONE = "gone"


@dataclass
class Session:
    checks: tuple[str, ...]
    ttl: float
    lock_delay: float
    renewed: float


@dataclass
class ConsulModel:
    """Consul's state; a session expires after `lapse` TTLs, which Consul promises to be 1 to 2."""

    lapse: float = 2.0
    index: int = 10
    services: dict[str, ServiceEntry] = field(default_factory=dict)
    node_checks: dict[str, Check] = field(default_factory=dict)
    keys: dict[str, KVEntry] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    delayed: dict[str, float] = field(default_factory=dict)
    names: Any = field(default_factory=itertools.count)

    def pass_time(self, now: float) -> None:
        for name, session in list(self.sessions.items()):
            if now >= session.renewed + session.ttl * self.lapse:
                self.invalidate(name, now)

    def check(self, check_id: str) -> Check | None:
        for service in self.services.values():
            for check in service.checks:
                if check.id == check_id:
                    return check
        return None

    def register(self, body: Mapping[str, Any]) -> None:
        checked = [(body, _SERVICE_FIELDS), *((c, _CHECK_FIELDS) for c in body.get("Checks", ()))]
        for found, taken in checked:
            if unknown := found.keys() - taken:
                raise Rejected(f"Request decode failed: json: unknown field {min(unknown)!r}")
        old = self.services.get(body["ID"])
        kept = {check.id: check for check in old.checks} if old else {}
        for wanted in body.get("Checks", ()):
            notes = wanted.get("Notes", "")
            fresh = Check(wanted["CheckID"], wanted["Name"], "critical", "", body["ID"], notes)
            known = kept.get(fresh.id, fresh)
            kept[fresh.id] = replace(fresh, status=known.status, output=known.output)
        weights = body.get("Weights", {"Passing": 1, "Warning": 1})
        self.index += 1
        self.services[body["ID"]] = ServiceEntry(
            node=NODE,
            id=body["ID"],
            name=body["Name"],
            address=body["Address"],
            port=body["Port"],
            tags=tuple(body.get("Tags", ())),
            meta=dict(body.get("Meta", {})),
            weight_passing=weights["Passing"],
            weight_warning=weights["Warning"],
            checks=tuple(sorted(kept.values(), key=lambda check: check.id)),
        )

    def deregister(self, service_id: str, now: float) -> None:
        gone = self.services.pop(service_id, None)
        if gone:
            self.index += 1
            self._end_sessions({check.id for check in gone.checks}, now)

    def set_check(self, check_id: str, status: str, output: str, now: float) -> None:
        old = self.check(check_id)
        if old is None:
            raise NotFound(f"unknown check {check_id}")
        service = self.services[old.service_id]
        new = replace(old, status=status, output=output)
        checks = tuple(new if check.id == check_id else check for check in service.checks)
        self.services[service.id] = replace(service, checks=checks)
        if status != old.status:
            self.index += 1
        if status == "critical":
            self._end_sessions({check_id}, now)

    def maintain(self, service_id: str, reason: str | None) -> None:
        service = self.services.get(service_id)
        if service is None:
            raise NotFound(f"unknown service {service_id}")
        check_id = f"_service_maintenance:{service_id}"
        checks = [found for found in service.checks if found.id != check_id]
        if reason is not None and len(checks) < len(service.checks):
            return  # the first reason stays
        if reason is not None:
            name = "Service Maintenance Mode"
            checks.append(Check(check_id, name, "critical", "", service_id, reason))
        checks = sorted(checks, key=lambda found: found.id)
        self.services[service_id] = replace(service, checks=tuple(checks))
        self.index += 1

    def check_node(self, check: Check | None, check_id: str) -> None:
        """Set a check of the node itself, or with None remove it."""
        self.node_checks.pop(check_id, None)
        if check is not None:
            self.node_checks[check_id] = check
        self.index += 1

    def open_session(self, checks: Sequence[str], ttl: float, delay: float, now: float) -> str:
        for check_id in checks:
            check = self.check(check_id)
            if check is None or check.status == "critical":
                raise Rejected(f"check {check_id} is missing or critical")
        name = f"session-{next(self.names)}"
        self.sessions[name] = Session(tuple(checks), ttl, delay, now)
        self.index += 1
        return name

    def renew(self, session: str, now: float) -> None:
        self.pass_time(now)
        if session not in self.sessions:
            raise SessionLost(session)
        self.sessions[session].renewed = now

    def invalidate(self, session: str, now: float) -> None:
        ended = self.sessions.pop(session, None)
        if ended is None:
            return
        self.index += 1
        for key, entry in self.keys.items():
            if entry.session == session:
                self.keys[key] = replace(entry, session=None, modify_index=self.index)
                self.delayed[key] = now + ended.lock_delay

    def transact(self, operations: Sequence[Operation], now: float) -> dict[str, int]:
        self.pass_time(now)
        before = self.keys, self.index
        self.keys, self.index = dict(self.keys), self.index + 1
        written: dict[str, int] = {}
        try:
            for operation in operations:
                self._operate(operation, written, now)
        except Rejected:
            self.keys, self.index = before
            raise
        if self.keys == before[0]:
            self.index = before[1]
        return written

    def _operate(self, operation: Operation, written: dict[str, int], now: float) -> None:
        key = operation.key
        old = self.keys.get(key)
        holder = old.session if old else None
        match operation:
            case HoldsLock() | Unchanged():
                _require(operation, old)
            case Delete(index=index):
                if old and old.modify_index != index:
                    raise Conflict(f"{key}: index is stale")
                self.keys.pop(key, None)
            case Set(value=value, index=index):
                if index is not None and index != (old.modify_index if old else 0):
                    raise Conflict(f"{key}: index is stale")
                written[key] = self._write(key, value, holder, 0)
            case Lock(value=value, session=session):
                self._lockable(key, session, holder, now)
                count = old.lock_index if old else 0
                written[key] = self._write(key, value, session, count + (holder != session))
            case Unlock(value=value, session=session):
                if holder != session:
                    raise Conflict(f"{key}: lock isn't held, or is held by another session")
                written[key] = self._write(key, value, None, old.lock_index if old else 0)

    def _lockable(self, key: str, session: str, holder: str | None, now: float) -> None:
        if session not in self.sessions:
            raise SessionLost(session)
        if holder not in (None, session):
            raise Conflict(f"{key}: lock is already held")
        if now < self.delayed.get(key, now):
            raise Conflict(f"{key}: due to lock delay")

    def _write(self, key: str, value: bytes, session: str | None, count: int) -> int:
        """Write a key; `count` is its LockIndex, which every plain write resets to 0."""
        old = self.keys.get(key)
        if old and (old.value, old.session, old.lock_index) == (value, session, count):
            return old.modify_index  # Consul keeps the index if a write changes nothing
        created = old.create_index if old else self.index
        self.keys[key] = KVEntry(key, value, session, self.index, count, created)
        return self.index

    def _end_sessions(self, check_ids: set[str], now: float) -> None:
        for name, session in list(self.sessions.items()):
            if check_ids & set(session.checks):
                self.invalidate(name, now)


def _require(operation: HoldsLock | Unchanged, old: KVEntry | None) -> None:
    if isinstance(operation, HoldsLock) and (old is None or old.session != operation.session):
        raise Conflict(f"failed session check for key {operation.key}")
    if isinstance(operation, Unchanged) and (old is None or old.modify_index != operation.index):
        raise Conflict(f"failed index check for key {operation.key}")


class FakeConsul:
    """A `ConsulApi` on the model: an agent, and servers that may become unreachable."""

    def __init__(
        self,
        model: ConsulModel | None = None,
        clock: Clock | None = None,
        generation: Generation = Generation.CLASSIC,
    ) -> None:
        self.model = model or ConsulModel()
        self.generation = generation
        self._clock = clock or SystemClock()
        self._changed = asyncio.Condition()
        self._servers = Servers.LEADING
        # The agent's views, by service, and the entries that they show while there are no servers.
        self._viewed: set[str] = set()
        self._views: dict[str, QueryResult[tuple[ServiceEntry, ...]]] = {}
        # The requests' token, the revoked ones, and by service the token that the agent keeps. The
        # catalog keeps showing the old state of an entry that the agent may not write.
        self.token = ""
        self.revoked: set[str] = set()
        self._kept: dict[str, str] = {}
        self._unwritten: dict[str, ServiceEntry] = {}

    async def set_servers(self, servers: Servers) -> None:
        """Make the servers unreachable, leaderless, or available again.

        Blocking queries then fail. If only the leader is lost, those that the servers answer
        return and say so, and streamed ones notice nothing.
        """
        async with self._changed:
            if self._servers is Servers.LEADING:
                self._views = {name: self._view(name) for name in self._viewed}
            self._servers = servers
            self._changed.notify_all()

    async def restart_agent(self) -> None:
        """A restart keeps registrations, and drops all views."""
        async with self._changed:
            self._viewed, self._views = set(), {}
            self._changed.notify_all()

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
        if dc:  # the model has one datacenter
            raise Unavailable(f"Consul: health/service: no path to datacenter {dc}")
        if index > 0 and streamed and self.generation is Generation.STREAMING:
            return await self._stream(name, index, wait)
        return await self._block(lambda: self._catalog(name), index, wait)

    async def health_node(
        self, node: str, *, index: int = 0, wait: float = 0
    ) -> QueryResult[tuple[Check, ...]]:
        def read() -> tuple[Check, ...]:
            services = (service for service in self.model.services.values() if service.node == node)
            found = [check for service in services for check in service.checks]
            found += (_SERF, *self.model.node_checks.values()) if node == NODE else ()
            return tuple(sorted(found, key=lambda check: check.id))

        return await self._block(read, index, wait)

    async def sees_all(self, name: str) -> bool:
        return True

    async def kv_prefix(
        self, prefix: str, *, index: int = 0, wait: float = 0, consistent: bool = False
    ) -> QueryResult[tuple[KVEntry, ...]]:
        def read() -> tuple[KVEntry, ...]:
            keys = sorted(key for key in self.model.keys if key.startswith(prefix))
            return tuple(self.model.keys[key] for key in keys)

        return await self._block(read, index, wait)

    async def kv(self, key: str, *, consistent: bool = False) -> QueryResult[KVEntry | None]:
        return await self._block(lambda: self.model.keys.get(key), 0, 0)

    async def register_service(self, registration: Mapping[str, Any]) -> None:
        await self.change(lambda _: self.model.register(registration))
        self._kept[registration["ID"]] = self.token
        self._unwritten.pop(registration["ID"], None)

    async def keeps_token(self, service_id: str) -> bool:
        return self._kept.get(service_id) == self.token

    async def deregister_service(self, service_id: str) -> None:
        self._keep(service_id)
        await self.change(lambda now: self.model.deregister(service_id, now))
        self._kept.pop(service_id, None)

    async def maintain_service(self, service_id: str, reason: str | None) -> None:
        await self.change(lambda _: self.model.maintain(service_id, reason))

    async def agent_service(self, service_id: str) -> ServiceEntry | None:
        found = self.model.services.get(service_id)
        return self._whole(found) if found else None

    def _whole(self, service: ServiceEntry, *more: Check) -> ServiceEntry:
        """The service with the checks of its node."""
        checks = (*more, *self.model.node_checks.values(), *service.checks)
        return replace(service, checks=tuple(sorted(checks, key=lambda check: check.id)))

    async def maintain_node(self, reason: str | None) -> None:
        """Put the node into maintenance mode, as `consul maint` does; None ends it."""
        on = Check("_node_maintenance", "Node Maintenance Mode", "critical", "", "", reason or "")
        kept = None if reason is None else on
        await self.change(lambda _: self.model.check_node(kept, on.id))

    async def update_check(self, check_id: str, status: Status, output: str) -> None:
        shown, check = cut(output, MAX_OUTPUT), self.model.check(check_id)
        if check is not None:
            self._keep(check.service_id)
        await self.change(lambda now: self.model.set_check(check_id, status, shown, now))

    async def session_create(
        self, name: str, *, ttl: float, lock_delay: float, service_checks: Sequence[str]
    ) -> str:
        return await self._have_servers(
            lambda now: self.model.open_session(service_checks, ttl, lock_delay, now)
        )

    async def session_renew(self, session: str) -> None:
        await self._have_servers(lambda now: self.model.renew(session, now))

    async def session_destroy(self, session: str) -> None:
        await self._have_servers(lambda now: self.model.invalidate(session, now))

    async def transact(self, *operations: Operation) -> Mapping[str, int]:
        return await self._have_servers(lambda now: self.model.transact(operations, now))

    async def change(self, change: Callable[[float], T]) -> T:
        """Make a change that the agent can make alone, and sync it to available servers."""
        async with self._changed:
            result = change(self._clock.now())
            self._changed.notify_all()
            return result

    async def _have_servers(self, change: Callable[[float], T]) -> T:
        self._need_servers()
        return await self.change(change)

    def _need_servers(self) -> None:
        if self._servers is Servers.LEADERLESS:
            raise Unavailable("Consul: No cluster leader")
        if self._servers is Servers.GONE:
            raise Unavailable("Consul: No known Consul servers")

    def _keep(self, service_id: str) -> None:
        """Keep showing a service's old state if the agent may not write the new one."""
        service = self.model.services.get(service_id)
        if service is not None and self._kept.get(service_id) in self.revoked:
            self._unwritten.setdefault(service_id, service)

    def _catalog(self, name: str) -> tuple[ServiceEntry, ...]:
        every = {**self.model.services, **self._unwritten}
        found = (service for service in every.values() if service.name == name)
        whole = (self._whole(service, _SERF) for service in found)
        return tuple(sorted(whole, key=lambda service: service.id))

    def _view(self, name: str) -> QueryResult[tuple[ServiceEntry, ...]]:
        return QueryResult(self._catalog(name), self.model.index, known_leader=False, streamed=True)

    async def _stream(
        self, name: str, index: int, wait: float
    ) -> QueryResult[tuple[ServiceEntry, ...]]:
        def shown() -> QueryResult[tuple[ServiceEntry, ...]] | None:
            return self._view(name) if self._servers is Servers.LEADING else self._views.get(name)

        def is_news() -> bool:
            view = shown()
            return view is not None and view.index > index

        async with self._changed:
            if self._servers is Servers.LEADING:
                self._viewed.add(name)
            before = self._servers
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait_for(
                        lambda: is_news() or Servers.GONE is self._servers is not before
                    )
            if Servers.GONE is self._servers is not before:
                raise Unavailable("Consul: health/service: error reading from server: EOF")
            view = shown()
        if view is None:  # Consul answers with an empty list, which the client does not return
            raise Unavailable(f"Consul: health/service: the agent has not heard of {name} yet")
        return view

    async def _block(self, read: Callable[[], T], index: int, wait: float) -> QueryResult[T]:
        self._need_servers()
        async with self._changed:
            if index > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._changed.wait_for(
                            lambda: self.model.index > index or self._servers is not Servers.LEADING
                        )
            if self._servers is Servers.GONE:
                self._need_servers()
            leading = self._servers is Servers.LEADING
            return QueryResult(read(), self.model.index, known_leader=leading)
