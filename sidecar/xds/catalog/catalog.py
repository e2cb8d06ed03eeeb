"""The control plane's view of the services: plain values, sorted, comparable. Pure."""

from dataclasses import dataclass
from enum import Enum

from sidecar.traffic.policy import DEFAULTS, TrafficPolicy
from sidecar.xds.catalog.policy_indexes import NEVER, PolicyIndexes

# The maximum weight of an endpoint: Envoy rejects an assignment whose weights sum to more than a
# uint32, and Consul sets no limit.
MAX_WEIGHT = 65_535
WHOLE = 100  # percent


class Health(Enum):
    """An instance's health in Consul: the worst of its checks."""

    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Instance:
    """One Triton with its sidecar.

    `port` is Triton's gRPC port, `health_port` the sidecar's. `weight`, at least 1, is relative to
    the service's other instances; `percent` says how much of the usual weight that is. `capacity`
    is the number of requests in flight that it declares, 0 if none. `datacenter` is empty for the
    control plane's own. `silent`: its sidecar does not answer, and `health` is the last known.
    `hands_over`: it was taken out of service, and keeps serving until another one does. `ill`: its
    own sidecar reports a fault, or did last, whatever other checks say. `models` are those that it
    names; `unusable` are those of them that it may not serve now, each with the reason's code.
    """

    id: str
    address: str
    port: int
    health_port: int
    health: Health = Health.PASSING
    draining: bool = False
    weight: int = 1
    percent: int = WHOLE
    model_set: str = ""
    tags: tuple[str, ...] = ()
    zone: str = ""
    datacenter: str = ""
    capacity: int = 0
    silent: bool = False
    hands_over: bool = False
    ill: bool = False
    models: tuple[str, ...] = ()
    unusable: tuple[tuple[str, str], ...] = ()

    @property
    def usable_models(self) -> frozenset[str]:
        """The models that it may serve, if it may get requests."""
        return frozenset(self.models).difference(model for model, _ in self.unusable)

    @property
    def usable(self) -> bool:
        """Whether it may get new requests like any other."""
        return self.usable_last and not self.silent

    @property
    def usable_last(self) -> bool:
        """Whether it may get new requests if no other instance is left.

        Nothing says that a silent instance is unhealthy.
        """
        return self.health is not Health.CRITICAL and not self.draining

    @property
    def endpoint(self) -> tuple[str, int]:
        """Address and port for its requests."""
        return self.address, self.port


@dataclass(frozen=True, slots=True)
class Leader:
    """The preferred instance, and the epoch in which it was elected."""

    instance: str
    epoch: int


@dataclass(frozen=True, slots=True)
class ServiceCatalog:
    """One service: its instances sorted by id.

    `settled` is False until enough is known about the service. Envoy gets no endpoints for an
    unsettled one, which is not the same as an empty list of endpoints.
    """

    name: str
    instances: tuple[Instance, ...] = ()
    leader: Leader | None = None
    settled: bool = True
    policy: TrafficPolicy = DEFAULTS
    since: PolicyIndexes = NEVER

    def __post_init__(self) -> None:
        object.__setattr__(self, "instances", tuple(sorted(self.instances, key=lambda i: i.id)))


@dataclass(frozen=True, slots=True)
class Catalog:
    """All services, in the operator's order: the first gets the requests that no other one claims.

    `zone` is the control plane's own, if it has one.
    """

    services: tuple[ServiceCatalog, ...]
    zone: str = ""
