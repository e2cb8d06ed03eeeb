"""The Consul client: every request to the agent, with a deadline and translated errors.

Where python-consul2 lacks a field (weights, several checks, transactions, session bindings), the
client builds the request itself and sends it through the same transport, a pooled aiohttp session.
Requests are valid for Consul 1.8 and later: older agents reject fields they do not know.

Acts: asyncio, urllib.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self, TypeVar
from urllib.parse import quote

from sidecar.consul.access import ConsulAccess
from sidecar.consul.api import (
    Check,
    KVEntry,
    Operation,
    QueryResult,
    ServiceEntry,
    Status,
    cut,
)
from sidecar.consul.error_translation import FOREIGN, CheckCritical, check_status, translate
from sidecar.consul.parsing import (
    parse_checks,
    parse_health_entries,
    parse_kv_entry,
    parse_service_entry,
)
from sidecar.consul.request import Query, operation_body, operation_name
from sidecar.consul.response import Response, is_absent, json_of, json_or_none, query_result
from sidecar.consul.token import Token
from sidecar.consul.transport import Client
from sidecar.runtime.errors import Conflict, NotFound, SessionLost, SidecarError, Unavailable

T = TypeVar("T")
# Bytes. Consul limits check output to 4 KB; it rejects more, or cuts it within a character.
MAX_OUTPUT = 4000


class Consul:
    """A `ConsulApi` on a real agent; an async context manager.

    `on_error` is called for every failed request: the operation, such as `session/renew`, and why.

    Raises:
        ConfigError: a file for TLS cannot be read.
    """

    def __init__(
        self,
        access: ConsulAccess,
        on_error: Callable[[str, SidecarError], None] | None = None,
    ) -> None:
        self._timeout = access.timeout
        self._rotates = access.token_file is not None
        self._on_error = on_error or (lambda operation, error: None)
        self._client = Client(access)
        if access.token is not None:
            self._client.http.token = access.token
        self._token = Token(access.read_token, lambda error: self._on_error("token", error))
        # The token of the last registration, which the agent keeps, by service id.
        self._registered: dict[str, str | None] = {}
        # The entries of the last answer to each query, by their text.
        self._entries: dict[str, Mapping[bytes, ServiceEntry]] = {}
        # Compression only costs time with an agent on this machine.
        self._headers = {"Accept-Encoding": "identity"} if access.is_local else None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.http.close()

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
        """See `ConsulApi`."""

        def parse(response: Response) -> QueryResult[tuple[ServiceEntry, ...]]:
            # Each change brings the whole list, and most of it is unchanged.
            read = parse_health_entries(response.content, self._entries.get(asked, {}))
            self._entries[asked] = dict(read)
            entries = sorted((entry for _, entry in read), key=lambda entry: entry.id)
            answer = query_result(response, tuple(entries), streams=index > 0)
            # Even Consul's first write has a higher index: the agent's view was never filled. It
            # reaches no server, or none of that datacenter, or they do not know the token.
            if answer.streamed and answer.index <= 1:
                raise Unavailable(f"Consul: health/service: the agent has not heard of {name} yet")
            return answer

        asked = f"{name} {dc}"
        # Only the servers can sort by distance, so the agent does not answer from its view.
        near = "" if streamed or index == 0 else "_agent"
        path = f"/v1/health/service/{name}"
        return await self._read(Query(path, index, wait, consistent, dc, near), parse)

    async def health_node(
        self, node: str, *, index: int = 0, wait: float = 0
    ) -> QueryResult[tuple[Check, ...]]:
        """See `ConsulApi`."""

        def parse(response: Response) -> QueryResult[tuple[Check, ...]]:
            return query_result(response, parse_checks(json_of(response)))

        return await self._read(Query(f"/v1/health/node/{quote(node)}", index, wait), parse)

    async def sees_all(self, name: str) -> bool:
        """See `ConsulApi`."""
        # A node without a name is only allowed by a rule for every node.
        asked = (("service", name), ("node", ""))
        body = [{"Resource": kind, "Access": "read", "Segment": which} for kind, which in asked]
        post, data = self._client.http.post, json.dumps(body)

        def allowed(response: Response) -> bool:
            if response.code == 401 and "ACL support disabled" in response.body:
                return True
            answers = json_of(check_status(response))
            return [each["Allow"] for each in answers] == [True] * len(asked)

        path = "/v1/internal/acl/authorize"
        return await self._ask(operation_name(path), lambda: post(allowed, path, None, data))

    async def kv_prefix(
        self, prefix: str, *, index: int = 0, wait: float = 0, consistent: bool = False
    ) -> QueryResult[tuple[KVEntry, ...]]:
        """See `ConsulApi`."""

        def parse(response: Response) -> QueryResult[tuple[KVEntry, ...]]:
            found = [] if is_absent(response) else json_of(response)
            return query_result(
                response, tuple(sorted(map(parse_kv_entry, found), key=lambda kv: kv.key))
            )

        query = Query(
            f"/v1/kv/{prefix}",
            index,
            wait,
            consistent,
            may_be_absent=True,
            more={"recurse": "1"},
        )
        return await self._read(query, parse)

    async def kv(self, key: str, *, consistent: bool = False) -> QueryResult[KVEntry | None]:
        """See `ConsulApi`."""

        def parse(response: Response) -> QueryResult[KVEntry | None]:
            found = None if is_absent(response) else parse_kv_entry(json_of(response)[0])
            return query_result(response, found)

        query = Query(f"/v1/kv/{key}", consistent=consistent, may_be_absent=True)
        return await self._read(query, parse)

    async def register_service(self, registration: Mapping[str, Any]) -> None:
        """See `ConsulApi`."""
        # No `replace-existing-checks`: it would end maintenance mode.
        path, data = "/v1/agent/service/register", json.dumps(registration)
        put, sent = self._client.http.put, None

        def request() -> Awaitable[None]:
            nonlocal sent
            sent = self._client.http.token
            return put(lambda response: _ignored(check_status(response)), path, None, data)

        await self._ask(operation_name(path), request)
        self._registered[registration["ID"]] = sent

    async def keeps_token(self, service_id: str) -> bool:
        """See `ConsulApi`."""

        async def compared() -> bool:
            kept = self._registered
            return service_id in kept and kept[service_id] == self._client.http.token

        return await self._ask("token", compared)

    async def deregister_service(self, service_id: str) -> None:
        """See `ConsulApi`."""
        # For an unknown id, 1.8 answers 200, or 500 with ACLs, and later versions 404.
        deregister = self._client.agent.service.deregister
        with suppress(NotFound):
            await self._ask("agent/service/deregister", lambda: deregister(service_id), absent=True)
        self._registered.pop(service_id, None)

    async def maintain_service(self, service_id: str, reason: str | None) -> None:
        """See `ConsulApi`."""
        maintain = self._client.agent.service.maintenance
        enable = "false" if reason is None else "true"
        known = await self._ask(
            "agent/service/maintenance", lambda: maintain(service_id, enable, reason)
        )
        if not known:  # how python-consul2 reports a 404
            raise NotFound(f"Consul: no service {service_id} to maintain")

    async def agent_service(self, service_id: str) -> ServiceEntry | None:
        """See `ConsulApi`."""
        service = await self._read(
            Query(f"/v1/agent/service/{service_id}", may_be_absent=True),
            lambda response: None if response.code == 404 else json_of(response),
        )
        if service is None:
            return None

        def parse(response: Response) -> ServiceEntry:
            found = list(json_of(response).values())
            node = next((each["Node"] for each in found), "")
            return parse_service_entry(node, service, found, {})

        of_it = f'ServiceID == "{service_id}" or ServiceID == ""'
        return await self._read(Query("/v1/agent/checks", more={"filter": of_it}), parse)

    async def update_check(self, check_id: str, status: Status, output: str) -> None:
        """See `ConsulApi`."""
        body = {"Status": status, "Output": cut(output, MAX_OUTPUT)}
        await self._put(f"/v1/agent/check/update/{check_id}", body, _ignored)

    async def session_create(
        self, name: str, *, ttl: float, lock_delay: float, service_checks: Sequence[str]
    ) -> str:
        """See `ConsulApi`."""
        body = {
            "Name": name,
            "TTL": f"{ttl:g}s",
            # With a unit: Consul reads a bare number as seconds or nanoseconds by its size.
            "LockDelay": f"{round(lock_delay * 1000)}ms",
            "Behavior": "release",
            "NodeChecks": ["serfHealth"],
            "ServiceChecks": [{"ID": check} for check in service_checks],
        }
        return await self._put("/v1/session/create", body, lambda found: str(json_of(found)["ID"]))

    async def session_renew(self, session: str) -> None:
        """See `ConsulApi`."""
        try:
            await self._ask("session/renew", lambda: self._client.session.renew(session))
        except NotFound as error:
            raise SessionLost(f"Consul session {session} is gone") from error

    async def session_destroy(self, session: str) -> None:
        """See `ConsulApi`."""
        await self._ask("session/destroy", lambda: self._client.session.destroy(session))

    async def is_consul(self) -> bool:
        """Whether the address may be a Consul's; a server that answers 404 to everything is not.

        Raises:
            Unavailable: nothing answers.
        """

        def looks_like_consul(response: Response) -> bool:
            # Consul shows its leader without a token; without a leader it answers "" or 500. The
            # endpoint may be blocked (http_config.block_endpoints), with a distinctive message.
            if response.code != 200:
                blocked = response.code == 403 and "blocked by agent" in response.body
                return blocked or response.code in (429, *range(500, 600))
            return isinstance(json_or_none(response), str)

        get = self._client.http.get
        return await self._ask("status/leader", lambda: get(looks_like_consul, "/v1/status/leader"))

    async def transact(self, *operations: Operation) -> Mapping[str, int]:
        """See `ConsulApi`."""

        def written(response: Response) -> Mapping[str, int]:
            entries = (found["KV"] for found in json_of(response)["Results"] or ())
            return {entry["Key"]: int(entry["ModifyIndex"]) for entry in entries}

        body = [{"KV": operation_body(operation)} for operation in operations]
        return await self._put("/v1/txn", body, written)

    async def _read(self, query: Query, parse: Callable[[Response], T]) -> T:
        get, headers = self._client.http.get, self._headers

        def callback(response: Response) -> T:
            return parse(check_status(response, query.may_be_absent))

        return await self._ask(
            operation_name(query.path),
            lambda: get(callback, query.path, query.params, headers=headers),
            query.blocks_for,
        )

    async def _put(self, path: str, body: object, parse: Callable[[Response], T]) -> T:
        put, data = self._client.http.put, json.dumps(body)

        def callback(response: Response) -> T:
            return parse(check_status(response))

        return await self._ask(operation_name(path), lambda: put(callback, path, None, data))

    async def _ask(
        self,
        operation: str,
        request: Callable[[], Awaitable[T]],
        extra: float = 0.0,
        *,
        absent: bool = False,
    ) -> T:
        """Send a request; errors of libraries are translated here, and go no further.

        With `absent`, a NotFound is raised but not reported as a failure.
        """
        try:
            async with asyncio.timeout(self._timeout + extra):
                if self._rotates:
                    self._client.http.token = await self._token.newest()
                return await request()
        except SidecarError as error:  # an answer that is not usable
            self._on_error(operation, error)
            raise
        except FOREIGN as error:
            translated = translate(operation, error)
            is_answer = isinstance(translated, Conflict | CheckCritical)
            if not is_answer and not (absent and isinstance(translated, NotFound)):
                self._on_error(operation, translated)
            raise translated from error


def _ignored(response: Response) -> None:
    """Parse a response that holds nothing beyond its status."""
