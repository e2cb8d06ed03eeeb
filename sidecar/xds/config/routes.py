"""Envoy's listener and routes. Pure.

Requests whose `:authority` names a service, or one of its policy's authorities, go to that service.
All others go to the service whose policy claims them by path and headers, or else to the first one.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2

# Imported for their types, which only `@type` names.
from envoy.extensions.access_loggers.stream.v3 import stream_pb2 as _stream  # noqa: F401
from envoy.extensions.filters.http.grpc_stats.v3 import config_pb2 as _grpc_stats  # noqa: F401
from envoy.extensions.filters.http.router.v3 import router_pb2 as _router  # noqa: F401
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as _manager,  # noqa: F401
)

from sidecar.traffic.policy import Match, TrafficPolicy
from sidecar.xds.catalog.models import ModelTable
from sidecar.xds.catalog.policy_indexes import NEVER, PolicyIndexes, claims
from sidecar.xds.config import http2, no_healthy_upstream
from sidecar.xds.config.capabilities import Capabilities
from sidecar.xds.config.edge import Edge
from sidecar.xds.config.endpoints import release_cluster, share
from sidecar.xds.config.filters import model_filter
from sidecar.xds.config.filters.quarantine_filter import (
    ANSWERED,
    EXTRA_ATTEMPTS,
    INTERNAL_HEADERS,
    Watchlist,
    route_metadata,
)
from sidecar.xds.config.filters.request_buffer import buffer_filter
from sidecar.xds.config.filters.sequence_filter import http_filters, route_config
from sidecar.xds.config.methods import AllowedPath, RouteKind, allowed_paths
from sidecar.xds.config.protojson import (
    ADS,
    Table,
    address,
    merged,
    named,
    parse,
    seconds,
    typed,
)
from sidecar.xds.config.retries import retry_policy

ROUTES = "triton"
LISTENER = "triton"


@dataclass(frozen=True, slots=True)
class Routing:
    """A service and its policy for routing.

    `suspects` are the requests to hold back; None without a quarantine. `generation` is the suffix
    of its clusters' names. `ill` are addresses of instances that continue no sequence. `since`
    dates the policy by its indexes. `models` is None if requests are not routed by model.
    """

    service: str
    policy: TrafficPolicy
    suspects: Watchlist | None = None
    generation: str = ""
    ill: tuple[str, ...] = ()
    since: PolicyIndexes = NEVER
    models: ModelTable | None = None

    @property
    def clusters(self) -> tuple[str, ...]:
        """The clusters that get requests."""
        released = share(self.policy)
        stable = (self.service,) if released < 100 else ()
        plain = (*stable, release_cluster(self.service)) if released else stable
        return tuple(name + self.generation for name in plain)


@dataclass(frozen=True, slots=True)
class RequestMatch:
    """Matches requests by path prefix and header values."""

    prefix: str = "/"
    headers: tuple[tuple[str, str], ...] = ()


_ANY = RequestMatch()


@lru_cache
def listener(edge: Edge, capabilities: Capabilities = Capabilities.PLAIN) -> Any:
    """The one listener (envoy.config.listener.v3.Listener); its routes come through RDS.

    It has only fields within the `capabilities`.
    """
    manager = named("envoy.filters.network.http_connection_manager", _hcm(edge, capabilities))
    chain = {"filters": [manager]}
    return parse(
        listener_pb2.Listener(),
        {
            "name": LISTENER,
            "address": address(edge.listen_host, edge.listen_port),
            "per_connection_buffer_limit_bytes": edge.per_connection_buffer_limit_bytes,
            # gRPC clients keep few connections for long: by chance one worker could get them all.
            "connection_balance_config": {"exact_balance": {}},
            "filter_chains": [chain],
        },
    )


@lru_cache(maxsize=16)
def routes(routings: tuple[Routing, ...]) -> Any:
    """The routes to all services (envoy.config.route.v3.RouteConfiguration).

    An authority that two services claim goes to the first one: Envoy rejects duplicates.
    """
    taken = {"*"}
    claimed = claims((each.service, each.since) for each in routings)
    hosts = [_virtual_host(each, domains, claimed) for each, domains in _domains(routings, taken)]
    if routings:
        hosts.append(_default_host(routings, claimed))
    message = parse(
        route_pb2.RouteConfiguration(),
        {
            "name": ROUTES,
            # A route may arrive before its cluster; it then answers UNAVAILABLE.
            "validate_clusters": False,
            "request_headers_to_remove": list(INTERNAL_HEADERS),
            "response_headers_to_remove": [ANSWERED],
        },
    )
    message.virtual_hosts.extend(hosts)
    return message


def _domains(routings: Sequence[Routing], taken: set[str]) -> Iterator[tuple[Routing, list[str]]]:
    """Each service with its own authorities; the names of services take precedence."""
    claims = [(each, [each.service]) for each in routings]
    claims += [(each, list(each.policy.match.authorities)) for each in routings]
    own: dict[str, list[str]] = {each.service: [] for each in routings}
    for each, authorities in claims:
        for authority in authorities:
            # Envoy compares them case-insensitively.
            for domain in (authority.lower(), f"{authority.lower()}:*"):
                if domain not in taken:
                    taken.add(domain)
                    own[each.service].append(domain)
    for each in routings:
        if own[each.service]:
            yield each, own[each.service]


def _virtual_host(each: Routing, domains: Iterable[str], claimed: str) -> Any:
    # A service's name is its own, whatever others claim.
    routed = _routes(each, _ANY, claimed if each.policy.match.authorities else "")
    return route_components_pb2.VirtualHost(name=each.service, domains=domains, routes=routed)


def _default_host(routings: Sequence[Routing], claimed: str) -> Any:
    """For all other authorities: the services that claim the request, or else the first one."""
    own = [(each, claim) for each in routings for claim in _claims(each.policy.match)]
    routed = [
        route
        for each, claim in (*own, (routings[0], _ANY))
        for route in _routes(each, claim, claimed if each.policy.affinity.sequence_header else "")
    ]
    return route_components_pb2.VirtualHost(name="*", domains=["*"], routes=routed)


def _claims(match: Match) -> Iterator[RequestMatch]:
    prefixes = match.path_prefixes or (("",) if match.headers else ())
    for prefix in prefixes:
        yield RequestMatch(prefix or "/", match.headers)


@lru_cache(maxsize=1024)
def _routes(each: Routing, claim: RequestMatch, claimed: str) -> Sequence[Any]:
    """The routes of one service for one claim: the allowed paths, and a refusal at the end.

    A stream has no time limit unless the policy sets one, and is retried only as a whole, before
    its first response. It has a separate route so that statistics tell it apart. `claimed` is the
    digest of all services' claims, empty where it does not matter.
    """
    tables = _tables(each, claim, claimed)
    return tuple(parse(route_components_pb2.Route(), table) for table in tables)


def _tables(each: Routing, claim: RequestMatch, claimed: str) -> Iterator[Table]:
    headers = [_header(name, value) for name, value in claim.headers]
    sequence = each.policy.affinity.sequence_header
    since = f"{each.since.followed}.{claimed}"
    for allowed in allowed_paths(each.policy, claim.prefix):
        by_model = model_filter.route_config(allowed, each.service, each.policy, each.models)
        if sequence:
            present = {"name": sequence, "present_match": True}
            yield merged(
                _route(allowed, each, [*headers, present], in_sequence=True),
                route_config(allowed, each.service, each.policy, each.ill, since),
                by_model,
            )
        yield merged(_route(allowed, each, headers, in_sequence=False), by_model)
    yield _refusal(each, {"prefix": claim.prefix, "headers": headers})


def _refusal(each: Routing, match: Table) -> Table:
    """For a method that is not allowed; gRPC maps it to PERMISSION_DENIED."""
    error = (
        f"the traffic policy of {each.service} does not admit this method: use Triton's own port, "
        "or name the method in admission.methods of the policy"
    )
    return {
        "name": f"{each.service}/refused",
        "stat_prefix": "refused",
        "match": match,
        "direct_response": {"status": 403, "body": {"inline_string": error}},
    }


def _route(
    allowed: AllowedPath, each: Routing, headers: list[Table], *, in_sequence: bool
) -> Table:
    limits, stream = each.policy.limits, allowed.kind is RouteKind.STREAM
    longest = limits.max_stream_duration if stream else None
    action: Table = {
        **_destination(each),
        # Default 15 s, retries included. Only the client's deadline counts: a maximum of 0 takes
        # `grpc-timeout` as it is, and no limit without one.
        "timeout": "0s",
        "max_stream_duration": {"grpc_timeout_header_max": "0s"},
        "idle_timeout": seconds(limits.stream_idle_timeout),
        "hash_policy": list(_hashed(each.policy, in_sequence)),
    }
    if longest is not None:
        bound = seconds(longest)
        action["max_stream_duration"] = {
            "max_stream_duration": bound,
            "grpc_timeout_header_max": bound,
        }
    fields: Table = {}
    if each.policy.retry.num_retries and not in_sequence:
        idempotent = each.policy.retry.idempotent and allowed.kind is not RouteKind.MANAGEMENT
        # Not for requests that a trial would execute twice, nor attempts that time out for being
        # slow.
        trusted = idempotent and limits.per_try_idle_timeout is None
        further = EXTRA_ATTEMPTS if trusted and each.suspects is not None else 0
        # No waiting where a request that crashes instances could be retried as often.
        if no_healthy_upstream.waits(each.policy) and (further or not idempotent):
            further = no_healthy_upstream.ATTEMPTS
        action["retry_policy"] = retry_policy(each.policy, idempotent=idempotent, further=further)
        if trusted and each.suspects is not None:
            fields = route_metadata(each.service, each.suspects)
    name = f"{allowed.kind}-sequence" if in_sequence else allowed.kind.value
    return {
        "name": f"{each.service}/{name}",
        "stat_prefix": name,
        "metadata": fields,
        "match": {**allowed.match, "headers": headers},
        "request_body_buffer_limit": limits.retry_body_bytes,
        "route": action,
    }


def _destination(each: Routing) -> Table:
    """One cluster, or two weighted by the release's share."""
    if len(each.clusters) == 1:
        return {"cluster": each.clusters[0]}
    released, release = share(each.policy), each.policy.release
    sides = zip(each.clusters, (100 - released, released), strict=True)
    weighted: Table = {"clusters": [{"name": name, "weight": weight} for name, weight in sides]}
    if release and release.sticky_header:
        weighted["use_hash_policy"] = True
    return {"weighted_clusters": weighted}


def _hashed(policy: TrafficPolicy, sequence: bool) -> Iterator[Table]:
    """The headers that decide the host; the first one present counts alone."""
    sticky = policy.release.sticky_header if policy.release and share(policy) else ""
    affinity = policy.affinity
    wanted = (affinity.sequence_header if sequence else "", sticky, affinity.header)
    for header in dict.fromkeys(filter(None, wanted)):
        yield {"header": {"header_name": header}, "terminal": True}


def _header(name: str, value: str) -> Table:
    return {"name": name, "string_match": {"exact": value}}


def _hcm(edge: Edge, capabilities: Capabilities) -> Table:
    router = named(
        "envoy.filters.http.router", typed("extensions.filters.http.router.v3.Router", {})
    )
    counted = typed(
        "extensions.filters.http.grpc_stats.v3.FilterConfig", {"stats_for_all_methods": False}
    )
    return http2.typed_options(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        {
            "stat_prefix": LISTENER,
            "codec_type": "AUTO",
            "rds": {"route_config_name": ROUTES, "config_source": ADS},
            # Counts each request once by its outcome: `cluster.<service>.grpc.success|failure`.
            "http_filters": [
                named("envoy.filters.http.grpc_stats", counted),
                *model_filter.http_filters(buffer_filter()),
                *http_filters(),
                router,
            ],
            # Clients may not control Envoy by x-envoy-* headers from outside.
            "use_remote_address": True,
            "stream_idle_timeout": seconds(edge.stream_idle_timeout),
            "http2_protocol_options": {
                "max_concurrent_streams": edge.max_concurrent_streams,
                **http2.options(
                    edge.keepalive_interval,
                    edge.keepalive_timeout,
                    edge.per_connection_buffer_limit_bytes,
                    capabilities,
                ),
                **http2.reset_limits(edge.max_concurrent_streams, capabilities),
            },
            "common_http_protocol_options": {"max_headers_count": http2.MAX_HEADERS_COUNT},
            "max_request_headers_kb": http2.MAX_HEADERS_KB,
            "access_log": [_failures_log()],
            "local_reply_config": {"mappers": [no_healthy_upstream.local_reply_mapper()]},
        },
        capabilities,
    )


def _failures_log() -> Table:
    """One JSON line for each request that Envoy itself failed."""
    fields = {
        "time": "%START_TIME%",
        "path": "%REQ(:PATH)%",
        "authority": "%REQ(:AUTHORITY)%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "flags": "%RESPONSE_FLAGS%",
        "detail": "%RESPONSE_CODE_DETAILS%",
        "grpc_status": "%GRPC_STATUS%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "upstream": "%UPSTREAM_HOST%",
        "duration_ms": "%DURATION%",
    }
    log = typed(
        "extensions.access_loggers.stream.v3.StdoutAccessLog",
        {"log_format": {"json_format": fields}},
    )
    # Upstream and routing failures, overload, timeouts; not clients that disconnected.
    flags = ["UH", "UF", "UC", "UR", "UO", "UT", "URX", "NR", "NC", "LR", "OM", "SI", "DT", "UMSDR"]
    return {
        **named("envoy.access_loggers.stdout", log),
        "filter": {"response_flag_filter": {"flags": flags}},
    }
