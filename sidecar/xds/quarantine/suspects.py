"""Requests that went down with two instances, by the fingerprint of what they ask. Pure."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from sidecar.traffic.policy import Connection
from sidecar.xds.catalog.catalog import Catalog, Instance, ServiceCatalog
from sidecar.xds.config.endpoints import in_use
from sidecar.xds.config.filters.quarantine_filter import Watchlist, service_of

Endpoint = tuple[str, int]
# Instances that a request may take down.
BOUND = 2
# Deaths of instances on which nobody else was on trial that prove it. One may be bad luck, for
# ordinary requests may have been there.
PROOF = 2
# More than are in flight at once on an instance that many use.
MOST = 512


@dataclass(frozen=True, slots=True)
class Suspect:
    """One of them: where it was, until when it is watched (monotonic seconds), and what is proven.

    It may be tried on any instance of the service but those that are `spared`: they served on when
    it was accused. `deaths` are those on trial, alone. `refusal` is what its clients are told once
    that is proof enough. One that is `pardoned` was let go before without an answer.
    """

    service: str
    endpoints: frozenset[Endpoint]
    spared: frozenset[Endpoint]
    until: float
    deaths: Mapping[Endpoint, int] = field(default_factory=dict)
    refusal: str = ""
    pardoned: bool = False

    @property
    def down(self) -> frozenset[Endpoint]:
        """All that went down with it, those on trial included."""
        return self.endpoints | self.deaths.keys()

    @property
    def guilty(self) -> bool:
        """Whether it is proven."""
        return sum(self.deaths.values()) >= PROOF


class Suspects:
    """All of them, each for `lifetime` seconds from the accusation, or from its last death."""

    def __init__(self, lifetime: float) -> None:
        self._lifetime = lifetime
        self._found: dict[str, Suspect] = {}
        self._pardoned: dict[str, float] = {}  # until when (monotonic seconds) that is remembered

    @property
    def watchlist(self) -> Watchlist:
        """What Envoys are told."""
        return frozenset((name, each.refusal) for name, each in self._found.items())

    def find(self, fingerprint: str) -> Suspect | None:
        """What is known of a request."""
        return self._found.get(fingerprint)

    def accuse(
        self, fingerprint: str, endpoints: Collection[Endpoint], catalog: Catalog | None, now: float
    ) -> Suspect | None:
        """A request was with these when they went down; None where nothing speaks against it.

        Raises:
            OverflowError: there are too many others.
            LookupError: nothing is known of its service.
        """
        known, where = self._found.get(fingerprint), frozenset(endpoints)
        if known is None and where:
            if len(self._found) >= MOST:
                raise OverflowError(f"{MOST} requests are suspects")
            name = service_of(fingerprint)
            if (service := _service(catalog, name)) is None:
                raise LookupError(f"no service {name!r}")
            spared = frozenset(each.endpoint for each in service.instances) - where
            until, pardoned = now + self._lifetime, fingerprint in self._pardoned
            known = Suspect(name, where, spared, until, pardoned=pardoned)
            self._found[fingerprint] = known
        return known

    def fell(self, fingerprint: str, endpoint: Endpoint, now: float) -> Suspect | None:
        """An instance went down on which it was on trial, alone; gives what is known now."""
        if known := self._found.get(fingerprint):
            deaths = {**known.deaths, endpoint: known.deaths.get(endpoint, 0) + 1}
            known = replace(known, deaths=deaths, until=now + self._lifetime)
            self._found[fingerprint] = known
        return known

    def refuse(self, fingerprint: str, refusal: str) -> None:
        """Tell the sender of a proven one why it is refused."""
        if known := self._found.get(fingerprint):
            self._found[fingerprint] = replace(known, refusal=refusal)

    def acquit(self, fingerprint: str) -> None:
        """It was answered."""
        self._found.pop(fingerprint, None)
        self._pardoned.pop(fingerprint, None)

    def pardon(self, fingerprint: str, now: float) -> None:
        """What it was accused of may have been somebody else's doing."""
        self._found.pop(fingerprint, None)
        self._pardoned[fingerprint] = now + self._lifetime

    def forget(self, now: float) -> None:
        """Let go of those whose time is over."""
        self._found = {name: each for name, each in self._found.items() if each.until > now}
        self._pardoned = {name: until for name, until in self._pardoned.items() if until > now}


def places(suspect: Suspect, catalog: Catalog | None) -> Iterator[tuple[Instance, Connection]]:
    """Where it may be tried now: what went down with it and is back, or came since.

    Nobody is tried on that gets no requests now.
    """
    if (service := _service(catalog, suspect.service)) is not None:
        for instance in in_use(service):
            if instance.endpoint not in suspect.spared:
                yield instance, service.policy.connection


def entries(suspect: Suspect, catalog: Catalog | None) -> Iterator[Instance]:
    """The instances that went down with it, as far as they are registered."""
    if (service := _service(catalog, suspect.service)) is not None:
        yield from (each for each in service.instances if each.endpoint in suspect.down)


def _service(catalog: Catalog | None, name: str) -> ServiceCatalog | None:
    services = catalog.services if catalog else ()
    return next((each for each in services if each.name == name), None)
