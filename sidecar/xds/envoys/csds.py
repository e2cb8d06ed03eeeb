"""CSDS: what each Envoy has, in the format of Envoy's own debugging tools.

Acts: asyncio, grpc.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import grpc
from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc

from sidecar.xds.ads.shutdown import until
from sidecar.xds.envoys.client_status import Client, ResourceState, ResourceStatus, TypeState

_MATCHERS = ("exact", "prefix", "suffix", "contains")


def response(clients: Iterable[Client], request: Any) -> Any:
    """The answer to a ClientStatusRequest.

    Raises:
        ValueError: it matches Envoys by something that is not known here.
    """
    matchers = list(request.node_matchers)
    for matcher in matchers:
        _check(matcher)
    chosen = [
        each
        for each in clients
        if not matchers or any(_matches(matcher.node_id, each.node) for matcher in matchers)
    ]
    configs = [_config(each, not request.exclude_resource_contents) for each in chosen]
    return csds_pb2.ClientStatusResponse(config=configs)


def _check(matcher: Any) -> None:
    kind = matcher.node_id.WhichOneof("match_pattern")
    if matcher.node_metadatas:
        raise ValueError("node_metadatas: metadata is unknown here, expected node_id alone")
    if matcher.HasField("node_id") and kind not in _MATCHERS:
        raise ValueError(f"node_id: expected one of {', '.join(_MATCHERS)}, found {kind}")


def _matches(wanted: Any, node: str) -> bool:
    kind = wanted.WhichOneof("match_pattern")
    if kind is None:
        return True
    text = getattr(wanted, kind)
    if wanted.ignore_case:
        text, node = text.lower(), node.lower()
    match kind:
        case "exact":
            return bool(node == text)
        case "prefix":
            return node.startswith(text)
        case "suffix":
            return node.endswith(text)
        case _:
            return text in node


def _config(client: Client, bodies: bool) -> Any:
    config = csds_pb2.ClientConfig()
    config.node.id = client.node
    for state in client.types:
        for each in state.resources:
            _fill(config.generic_xds_configs.add(), state, each, bodies)
    return config


def _fill(found: Any, state: TypeState, each: ResourceState, bodies: bool) -> None:
    """`version_info` is the published version; an error has Envoy's message too."""
    found.type_url, found.name = state.type_url, each.resource.name
    found.version_info = each.resource.version
    found.config_status = csds_pb2.ConfigStatus.Value(each.status.value)
    if bodies:
        found.xds_config.CopyFrom(each.resource.body)
    if each.status is ResourceStatus.ERROR and state.nack is not None:
        found.error_state.details = state.nack.reason
        found.error_state.version_info = each.resource.version
        found.error_state.last_update_attempt.FromMilliseconds(round(state.nack.at * 1000))


class ClientStatusService(csds_pb2_grpc.ClientStatusDiscoveryServiceServicer):
    """envoy.service.status.v3.ClientStatusDiscoveryService."""

    def __init__(self, clients: Callable[[], list[Client]], closing: asyncio.Event) -> None:
        """`clients` returns the current Envoys."""
        self._clients = clients
        self._closing = closing

    async def StreamClientStatus(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        """One answer to each request."""
        async for request in until(self._closing, request_iterator):
            yield await self._answer(request, context)

    async def FetchClientStatus(self, request: Any, context: Any) -> Any:
        """One answer."""
        return await self._answer(request, context)

    async def _answer(self, request: Any, context: Any) -> Any:
        try:
            return response(self._clients(), request)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
