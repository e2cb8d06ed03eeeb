"""What the control plane believes about the services: plain values, sorted, comparable."""

from dataclasses import dataclass
from enum import Enum

from sidecar.traffic.policy import DEFAULTS, TrafficPolicy
from sidecar.xds.catalog.policy_indexes import NEVER, PolicyIndexes

# The heaviest that an endpoint may be: Envoy refuses an assignment whose weights sum to more than a
# uint32; Consul itself knows no bound.
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

    `port` is Triton's gRPC port, `health_port` the sidecar's; `weight` is relative to the other
    instances of the service, at least 1; `percent` is how much of its usual weight that is.
    `capacity` is how many requests in flight it declares, 0 if it does not. `datacenter` is empty
    for the control plane's own. `silent` is one whose sidecar does not answer: `health` is the last
    that was heard. `hands_over`: somebody has taken it out of service, and it goes on serving until
    another one does. `ill`: its own sidecar speaks against it, or did last, whatever others say.
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

    @property
    def usable(self) -> bool:
        """Whether it may be given new requests like any other."""
        return self.usable_last and not self.silent

    @property
    def usable_last(self) -> bool:
        """Whether it may be given new requests where nobody else is left.

        Of one that is silent nobody says that it is ill.
        """
        return self.health is not Health.CRITICAL and not self.draining

    @property
    def endpoint(self) -> tuple[str, int]:
        """Where its requests go."""
        return self.address, self.port


@dataclass(frozen=True, slots=True)
class Leader:
    """The preferred instance, and the epoch in which it was elected."""

    instance: str
    epoch: int


@dataclass(frozen=True, slots=True)
class ServiceCatalog:
    """One service: its instances sorted by id.

    `settled` is False until enough is known to say something about the service. Nothing is told
    to Envoy about the endpoints of an unsettled one, which is not the same as telling it that
    there are none.
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
    """All services. Their order is the operator's: the first one takes unclaimed requests.

    `zone` is the control plane's own, if it has one.
    """

    services: tuple[ServiceCatalog, ...]
    zone: str = ""
