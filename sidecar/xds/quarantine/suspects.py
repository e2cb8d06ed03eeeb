"""Requests suspected of crashing instances, by the fingerprint of their content. Pure."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from sidecar.traffic.policy import Connection
from sidecar.xds.catalog.catalog import Catalog, Instance, ServiceCatalog
from sidecar.xds.config.endpoints import in_use
from sidecar.xds.config.filters.quarantine_filter import Watchlist, service_of

Endpoint = tuple[str, int]
# Instances that a request may crash before it is a suspect.
BOUND = 2
# Crashes of instances during a trial with no other trial, which prove it. One may be bad luck, as
# ordinary requests may have been there.
PROOF = 2
# More than are in flight on one busy instance.
MOST = 512


@dataclass(frozen=True, slots=True)
class Suspect:
    """A suspect: where it was, until when it is watched (monotonic seconds), and the evidence.

    It may be tried on any instance of the service except the `spared` ones, which survived when it
    was accused. `crashes` counts the crashes during its trials, alone. `refusal` is the error for
    its clients once that is proof. A `pardoned` one was released before without an answer.
    """

    service: str
    endpoints: frozenset[Endpoint]
    spared: frozenset[Endpoint]
    until: float
    crashes: Mapping[Endpoint, int] = field(default_factory=dict)
    refusal: str = ""
    pardoned: bool = False

    @property
    def down(self) -> frozenset[Endpoint]:
        """All instances that crashed with it, trials included."""
        return self.endpoints | self.crashes.keys()

    @property
    def guilty(self) -> bool:
        """Whether it is proven to crash instances."""
        return sum(self.crashes.values()) >= PROOF


class Suspects:
    """All suspects, each for `lifetime` seconds from the accusation, or from its last crash."""

    def __init__(self, lifetime: float) -> None:
        self._lifetime = lifetime
        self._found: dict[str, Suspect] = {}
        self._pardoned: dict[str, float] = {}  # remembered until then (monotonic s)

    @property
    def watchlist(self) -> Watchlist:
        """The fingerprints and refusals that Envoys get."""
        return frozenset((name, each.refusal) for name, each in self._found.items())

    def find(self, fingerprint: str) -> Suspect | None:
        """The suspect with that fingerprint."""
        return self._found.get(fingerprint)

    def accuse(
        self, fingerprint: str, endpoints: Collection[Endpoint], catalog: Catalog | None, now: float
    ) -> Suspect | None:
        """A request was on these instances when they crashed; None if nothing is known against it.

        Raises:
            OverflowError: there are too many others.
            LookupError: its service is unknown.
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

    def crashed_in_trial(self, fingerprint: str, endpoint: Endpoint, now: float) -> Suspect | None:
        """An instance crashed while it was tried there, alone; returns the updated suspect."""
        if known := self._found.get(fingerprint):
            crashes = {**known.crashes, endpoint: known.crashes.get(endpoint, 0) + 1}
            known = replace(known, crashes=crashes, until=now + self._lifetime)
            self._found[fingerprint] = known
        return known

    def refuse(self, fingerprint: str, refusal: str) -> None:
        """Set the error for clients of a proven one."""
        if known := self._found.get(fingerprint):
            self._found[fingerprint] = replace(known, refusal=refusal)

    def acquit(self, fingerprint: str) -> None:
        """It was answered."""
        self._found.pop(fingerprint, None)
        self._pardoned.pop(fingerprint, None)

    def pardon(self, fingerprint: str, now: float) -> None:
        """The crashes may have had another cause."""
        self._found.pop(fingerprint, None)
        self._pardoned[fingerprint] = now + self._lifetime

    def forget(self, now: float) -> None:
        """Remove expired suspects."""
        self._found = {name: each for name, each in self._found.items() if each.until > now}
        self._pardoned = {name: until for name, until in self._pardoned.items() if until > now}


def trial_places(
    suspect: Suspect, catalog: Catalog | None, model: str = ""
) -> Iterator[tuple[Instance, Connection]]:
    """Where it may be tried now: instances that crashed with it and are back, or that joined since.

    Only instances that get requests for its model now are used: the error of another one would
    prove nothing.
    """
    if (service := _service(catalog, suspect.service)) is not None:
        for instance in in_use(service):
            serves = not service.policy.by_model or model in instance.usable_models
            if serves and instance.endpoint not in suspect.spared:
                yield instance, service.policy.connection


def entries(suspect: Suspect, catalog: Catalog | None) -> Iterator[Instance]:
    """The instances that crashed with it, as far as they are registered."""
    if (service := _service(catalog, suspect.service)) is not None:
        yield from (each for each in service.instances if each.endpoint in suspect.down)


def _service(catalog: Catalog | None, name: str) -> ServiceCatalog | None:
    services = catalog.services if catalog else ()
    return next((each for each in services if each.name == name), None)
