"""Consul as simulated instances see it: the model, its leader, and each reader's view."""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from sidecar.consul.api import Check, KVEntry, Operation, QueryResult, ServiceEntry
from sidecar.election.keys import lock, orders
from sidecar.election.keys.orders import ElectionState
from sidecar.runtime.errors import SidecarError, Unavailable
from tests.support.consul_model import ConsulModel

T = TypeVar("T")
SERVICE = "t"
PREFIX = lock.prefix(SERVICE)
NODE_UP = Check("serfHealth", "Serf Health Status", "passing", "Agent alive and reachable", "")
NODE_DOWN = replace(NODE_UP, status="critical", output="Agent not live or unreachable")


@dataclass(frozen=True, slots=True)
class Request:
    """An instance's request to Consul, which suspends the coroutine that awaits it."""

    effect: Callable[["Store"], Any]
    operations: tuple[Operation, ...] = ()

    def __await__(self) -> Generator["Request", Any, Any]:
        return (yield self)


class Store:
    """The servers. `clock` returns the true time; `changed` is called on changes of the keys.

    Sessions end after one to two TTLs, as `lapse` says; the model itself never ends one.
    """

    def __init__(
        self, clock: Callable[[], float], at: Callable[[float, Callable[[], None]], None]
    ) -> None:
        self.model = ConsulModel(lapse=float("inf"))
        self.now = clock
        self.lapse: Callable[[], float] = lambda: 1.0
        self.changed: Callable[[], None] = lambda: None
        self.expiring: Callable[[str], None] = lambda session: None
        self.leader = True
        self.down: set[str] = set()  # nodes that gossip has lost
        self.states: list[ElectionState] = [orders.read(SERVICE, (), self.model.index)]
        self._entries: tuple[KVEntry, ...] = ()
        self._looked = 0
        self._at = at
        self._catalog: tuple[int, tuple[ServiceEntry, ...]] | None = None

    @property
    def state(self) -> ElectionState:
        """The current election's keys."""
        return self.states[-1]

    def do(self, effect: Callable[["Store"], T]) -> T:
        """Apply a change, and publish it to the readers."""
        try:
            return effect(self)
        finally:
            self.look()

    def answer(self, effect: Callable[["Store"], T]) -> T:
        """Serve a request.

        Raises:
            Unavailable: the servers have no leader.
            SidecarError: the request is rejected.
        """
        if not self.leader:
            raise Unavailable("no cluster leader")
        return self.do(effect)

    def look(self) -> None:
        """Record the election's keys, if they have changed."""
        if self.model.index == self._looked:
            return
        self._looked, found = self.model.index, self.model.keys
        entries = tuple(found[key] for key in sorted(found) if key.startswith(PREFIX))
        if entries != self._entries:
            self._entries = entries
            self.states.append(orders.read(SERVICE, entries, self.model.index))
            self.changed()

    def catalog(self) -> tuple[ServiceEntry, ...]:
        """The instances, with their nodes' checks."""
        if self._catalog is None or self._catalog[0] != self.model.index:
            found = sorted(self.model.services.values(), key=lambda service: service.id)
            entries = tuple(
                replace(s, checks=(NODE_DOWN if s.id in self.down else NODE_UP, *s.checks))
                for s in found
            )
            self._catalog = self.model.index, entries
        return self._catalog[1]

    # --- sessions ---------------------------------------------------------------------------

    def open(self, checks: Sequence[str], ttl: float, delay: float) -> str:
        session = self.model.open_session(checks, ttl, delay, self.now())
        self._expire_later(session)
        return session

    def renew(self, session: str) -> None:
        self.model.renew(session, self.now())
        self._expire_later(session)

    def end(self, session: str) -> None:
        self.model.invalidate(session, self.now())

    def _expire_later(self, name: str) -> None:
        session = self.model.sessions[name]
        renewed = session.renewed

        def expire() -> None:
            current = self.model.sessions.get(name)
            if current is None or current.renewed != renewed:
                return
            if not self.leader:  # no leader counts the TTL; a new one restarts it
                return
            self.expiring(name)
            self.do(lambda store: store.end(name))

        self._at(self.now() + session.ttl * self.lapse(), expire)

    def lose_leader(self) -> None:
        self.leader = False

    def elect_leader(self) -> None:
        """Elect a leader, which restarts the TTLs and forgets lock-delays."""
        self.leader = True
        self.model.delayed.clear()
        for name, session in self.model.sessions.items():
            session.renewed = self.now()
            self._expire_later(name)

    def node(self, name: str, *, up: bool) -> None:
        """Set whether gossip reaches a node; if not, its sessions end."""
        if up == (name not in self.down):
            return
        (self.down.discard if up else self.down.add)(name)
        self.model.index += 1
        if not up:
            for session, known in list(self.model.sessions.items()):
                if any(check.startswith(f"{name}:") for check in known.checks):
                    self.end(session)


class SuspendingConsul:
    """A `ConsulApi` whose requests suspend their caller until the world answers."""

    def __init__(self, catalog: Callable[[], tuple[ServiceEntry, ...]]) -> None:
        self._catalog = catalog

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
        return QueryResult(await Request(lambda store: self._catalog()), 1, known_leader=True)

    async def session_create(
        self, name: str, *, ttl: float, lock_delay: float, service_checks: Sequence[str]
    ) -> str:
        checks = tuple(service_checks)
        session: str = await Request(lambda store: store.open(checks, ttl, lock_delay))
        return session

    async def session_renew(self, session: str) -> None:
        await Request(lambda store: store.renew(session))

    async def session_destroy(self, session: str) -> None:
        await Request(lambda store: store.end(session))

    async def transact(self, *operations: Operation) -> Mapping[str, int]:
        done: Mapping[str, int] = await Request(
            lambda store: store.model.transact(operations, store.now()), operations
        )
        return done


def outcome(effect: Callable[[], T]) -> T | SidecarError:
    """The outcome of a request: its answer or its error."""
    try:
        return effect()
    except SidecarError as error:
        return error
