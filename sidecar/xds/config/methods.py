"""Which methods Envoy lets through: a list of what may pass, since Triton itself refuses nobody.

By default what every client needs. A client that loads models, changes settings or registers shared
memory does so at a Triton's own port, or by a policy that admits it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from sidecar.traffic.policy import TrafficPolicy
from sidecar.xds.config.protojson import Table

TRITON = "/inference.GRPCInferenceService/"
INFER_PATH, STREAM_PATH = TRITON + "ModelInfer", TRITON + "ModelStreamInfer"
_HEALTH = "/grpc.health.v1.Health/"
# The most frequent one first: Envoy asks them in this order.
UNARY_PATHS = (
    INFER_PATH,
    *(TRITON + name for name in ("ModelReady", "ServerReady", "ServerLive")),
    *(TRITON + name for name in ("ModelMetadata", "ServerMetadata", "ModelConfig")),
    TRITON + "ModelStatistics",
    *(_HEALTH + name for name in ("Check", "Watch", "List")),
)


class RouteKind(StrEnum):
    """How requests of a route are treated; the name of the route."""

    STREAM = "stream"
    UNARY = "unary"
    # Methods of Triton's that may change the server.
    MANAGEMENT = "management"


@dataclass(frozen=True, slots=True)
class AllowedPath:
    """Paths that pass: a whole one, or the beginning of many, as a route matches them."""

    kind: RouteKind
    match: Table


def admitted(policy: TrafficPolicy, prefix: str) -> Iterator[AllowedPath]:
    """What passes of the paths that begin with a prefix, in the order in which Envoy is to ask."""
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
    """Whether who claims a prefix admits by that what begins so.

    Triton's services as a whole are claimed to tell requests apart, and "/" for all that there are:
    neither says that anybody may unload a model.
    """
    return not any(service.startswith(prefix) for service in (TRITON, _HEALTH))
