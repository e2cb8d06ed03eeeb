"""The gRPC methods that Envoy lets through: an allow list, as Triton itself refuses none. Pure.

By default it has what every client needs. To load models, change settings or register shared memory
a client uses Triton's own port, or a policy that allows it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from sidecar.traffic.policy import TrafficPolicy
from sidecar.xds.config.protojson import Table

TRITON = "/inference.GRPCInferenceService/"
INFER_PATH, STREAM_PATH = TRITON + "ModelInfer", TRITON + "ModelStreamInfer"
_HEALTH = "/grpc.health.v1.Health/"
# The most frequent one first: Envoy matches them in this order.
UNARY_PATHS = (
    INFER_PATH,
    *(TRITON + name for name in ("ModelReady", "ServerReady", "ServerLive")),
    *(TRITON + name for name in ("ModelMetadata", "ServerMetadata", "ModelConfig")),
    TRITON + "ModelStatistics",
    *(_HEALTH + name for name in ("Check", "Watch", "List")),
)


class RouteKind(StrEnum):
    """How a route treats requests; also the route's name."""

    STREAM = "stream"
    UNARY = "unary"
    # Triton's methods that may change the server.
    MANAGEMENT = "management"


@dataclass(frozen=True, slots=True)
class AllowedPath:
    """An allowed path, or a prefix of many, as a route matches them."""

    kind: RouteKind
    match: Table


def allowed_paths(policy: TrafficPolicy, prefix: str) -> Iterator[AllowedPath]:
    """The allowed paths that begin with a prefix, in the order in which Envoy is to match them."""
    if STREAM_PATH.startswith(prefix):
        yield AllowedPath(RouteKind.STREAM, {"path": STREAM_PATH})
    for path in UNARY_PATHS:
        if path.startswith(prefix):
            yield AllowedPath(RouteKind.UNARY, {"path": path})
    for name in (*policy.admission.methods, *filter(_admits, policy.match.path_prefixes)):
        kind = RouteKind.MANAGEMENT if name.startswith(TRITON) else RouteKind.UNARY
        if name in policy.admission.methods and not name.endswith("/"):
            if name.startswith(prefix):
                yield AllowedPath(kind, {"path": name})
        elif name.startswith(prefix) or prefix.startswith(name):
            yield AllowedPath(kind, {"prefix": max(name, prefix, key=len)})


def _admits(prefix: str) -> bool:
    """Whether a policy that claims a prefix thereby allows all paths with that prefix.

    Claiming Triton's services as a whole, or "/", only tells requests apart: it does not allow
    anyone to unload a model.
    """
    return not any(service.startswith(prefix) for service in (TRITON, _HEALTH))
