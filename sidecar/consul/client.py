"""The door to Consul: the only module that knows python-consul2, HTTP and Consul's JSON.

python-consul2's request building is used where it is complete; where an endpoint lacks a field
(weights, several checks, transactions, session bindings) the request goes through the same
transport. The transport is ours: one pooled aiohttp session with a deadline on every request.
What is sent is valid for Consul 1.8 and later: older agents refuse fields they do not know.
"""

import asyncio
import base64
import ipaddress
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp
import consul.base

from sidecar.consul.access import ConsulAccess
from sidecar.consul.api import (
    Check,
    Delete,
    HoldsLock,
    KVEntry,
    Lock,
    Operation,
    QueryResult,
    ServiceEntry,
    Set,
    Status,
    Unchanged,
    Unlock,
    cut,
)
from sidecar.consul.token import Token
from sidecar.consul.transport import Client, Response
from sidecar.runtime.errors import (
    Conflict,
    NotFound,
    Rejected,
    SessionLost,
    SidecarError,
    Unavailable,
    words,
)

T = TypeVar("T")
# Consul cuts check output at 4 KB; a longer one is refused or cut in the middle of a character.
MAX_OUTPUT = 4000
_SAID = 500  # bytes of what Consul says of an error that are repeated


class Consul:
    """A `ConsulApi` on a real agent; an async context manager.

    `on_error` is told of every failed request: the operation, such as `session/renew`, and why.

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
        # By service id, the token of the last registration, which the agent keeps.
        self._registered: dict[str, str | None] = {}
        # By what was asked, the entries of the last answer by their text.
        self._entries: dict[str, Mapping[bytes, ServiceEntry]] = {}
        # An agent on this machine saves nothing by compressing, and takes longer over it.
        self._headers = {"Accept-Encoding": "identity"} if _is_local(access.url) else None

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
            # The whole list comes with each change, and nearly all of it is as it was.
            read = _health_entries(response.content, self._entries.get(asked, {}))
            self._entries[asked] = dict(read)
            entries = sorted((entry for _, entry in read), key=lambda entry: entry.id)
            answer = _answer(response, tuple(entries), streams=index > 0)
            # Not even Consul's own first write has this index: the agent's view was never filled.
            # It reaches no server, or none of that datacenter, or they do not know the token.
            if answer.streamed and answer.index <= 1:
                raise Unavailable(f"Consul: health/service: the agent has not heard of {name} yet")
            return answer

        path, asked = f"/v1/health/service/{name}", f"{name} {dc}"
        # Only the servers can sort by distance, so that the agent shows no view of its own.
        near = "" if streamed or index == 0 else "_agent"
        return await self._read(
            path, parse, index=index, wait=wait, consistent=consistent, dc=dc, near=near
        )

    async def health_node(
        self, node: str, *, index: int = 0, wait: float = 0
    ) -> QueryResult[tuple[Check, ...]]:
        """See `ConsulApi`."""

        def parse(response: Response) -> QueryResult[tuple[Check, ...]]:
            return _answer(response, _checks(_json(response)))

        return await self._read(f"/v1/health/node/{quote(node)}", parse, index=index, wait=wait)

    async def sees_all(self, name: str) -> bool:
        """See `ConsulApi`."""
        # A node without a name: only a rule about every node allows it.
        asked = (("service", name), ("node", ""))
        body = [{"Resource": kind, "Access": "read", "Segment": which} for kind, which in asked]
        post, data = self._client.http.post, json.dumps(body)

        def allowed(response: Response) -> bool:
            if response.code == 401 and "ACL support disabled" in response.body:
                return True
            answers = _json(_checked(response))
            return [each["Allow"] for each in answers] == [True] * len(asked)

        path = "/v1/internal/acl/authorize"
        return await self._ask(_operation(path), lambda: post(allowed, path, None, data))

    async def kv_prefix(
        self, prefix: str, *, index: int = 0, wait: float = 0, consistent: bool = False
    ) -> QueryResult[tuple[KVEntry, ...]]:
        """See `ConsulApi`."""

        def parse(response: Response) -> QueryResult[tuple[KVEntry, ...]]:
            found = [] if _absent(response) else _json(response)
            return _answer(response, tuple(sorted(map(_kv_entry, found), key=lambda kv: kv.key)))

        path = f"/v1/kv/{prefix}"
        return await self._read(
            path, parse, index=index, wait=wait, consistent=consistent, absent=True, recurse="1"
        )

    async def kv(self, key: str, *, consistent: bool = False) -> QueryResult[KVEntry | None]:
        """See `ConsulApi`."""

        def parse(response: Response) -> QueryResult[KVEntry | None]:
            found = None if _absent(response) else _kv_entry(_json(response)[0])
            return _answer(response, found)

        return await self._read(f"/v1/kv/{key}", parse, consistent=consistent, absent=True)

    async def register_service(self, registration: Mapping[str, Any]) -> None:
        """See `ConsulApi`."""
        # Without `replace-existing-checks`: it would end maintenance mode.
        path, data = "/v1/agent/service/register", json.dumps(registration)
        put, sent = self._client.http.put, None

        def request() -> Awaitable[None]:
            nonlocal sent
            sent = self._client.http.token
            return put(lambda response: _ignored(_checked(response)), path, None, data)

        await self._ask(_operation(path), request)
        self._registered[registration["ID"]] = sent

    async def keeps_token(self, service_id: str) -> bool:
        """See `ConsulApi`."""

        async def compared() -> bool:
            kept = self._registered
            return service_id in kept and kept[service_id] == self._client.http.token

        return await self._ask("token", compared)

    async def deregister_service(self, service_id: str) -> None:
        """See `ConsulApi`."""
        # Of an unknown id 1.8 says 200, or 500 where ACLs are on, and later ones 404.
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
        if not known:  # python-consul2's way of saying 404
            raise NotFound(f"Consul: no service {service_id} to maintain")

    async def agent_service(self, service_id: str) -> ServiceEntry | None:
        """See `ConsulApi`."""
        service = await self._read(
            f"/v1/agent/service/{service_id}",
            lambda response: None if response.code == 404 else _json(response),
            absent=True,
        )
        if service is None:
            return None

        def parse(response: Response) -> ServiceEntry:
            found = list(_json(response).values())
            node = next((each["Node"] for each in found), "")
            return _service_entry(node, service, found, {})

        of_it = f'ServiceID == "{service_id}" or ServiceID == ""'
        return await self._read("/v1/agent/checks", parse, filter=of_it)

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
        return await self._put("/v1/session/create", body, lambda found: str(_json(found)["ID"]))

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
        """Whether what answers there may be a Consul; a server that says 404 to everything is none.

        Raises:
            Unavailable: nothing answers.
        """

        def said(response: Response) -> bool:
            # Consul tells its leader to everybody; without one it says "" or 500. The endpoint may
            # be blocked (http_config.block_endpoints), in words that others hardly use.
            if response.code != 200:
                blocked = response.code == 403 and "blocked by agent" in response.body
                return blocked or response.code in (429, *range(500, 600))
            return isinstance(_json_or_none(response), str)

        get = self._client.http.get
        return await self._ask("status/leader", lambda: get(said, "/v1/status/leader"))

    async def transact(self, *operations: Operation) -> Mapping[str, int]:
        """See `ConsulApi`."""

        def written(response: Response) -> Mapping[str, int]:
            entries = (found["KV"] for found in _json(response)["Results"] or ())
            return {entry["Key"]: int(entry["ModifyIndex"]) for entry in entries}

        body = [{"KV": _operation_body(operation)} for operation in operations]
        return await self._put("/v1/txn", body, written)

    async def _read(
        self,
        path: str,
        parse: Callable[[Response], T],
        *,
        index: int = 0,
        wait: float = 0,
        consistent: bool = False,
        absent: bool = False,
        dc: str = "",
        near: str = "",
        **params: str,
    ) -> T:
        """GET; a 404 is an answer if something may be `absent`."""
        extra = 0.0
        if index > 0:
            params |= {"index": str(index), "wait": f"{round(wait * 1000)}ms"}
            # Consul adds up to a sixteenth, so that watchers do not all wake at once.
            extra = wait + wait / 16
        if consistent:
            params["consistent"] = "1"
        params |= {name: which for name, which in (("dc", dc), ("near", near)) if which}
        get = self._client.http.get

        def callback(response: Response) -> T:
            return parse(_checked(response, absent))

        ask = partial(get, callback, path, params, headers=self._headers)
        return await self._ask(_operation(path), ask, extra)

    async def _put(self, path: str, body: object, parse: Callable[[Response], T]) -> T:
        put, data = self._client.http.put, json.dumps(body)

        def callback(response: Response) -> T:
            return parse(_checked(response))

        return await self._ask(_operation(path), lambda: put(callback, path, None, data))

    async def _ask(
        self,
        operation: str,
        request: Callable[[], Awaitable[T]],
        extra: float = 0.0,
        *,
        absent: bool = False,
    ) -> T:
        """Send a request and translate whatever goes wrong: foreign errors end here.

        That something is not there is no failure if it may be `absent`.
        """
        try:
            async with asyncio.timeout(self._timeout + extra):
                if self._rotates:
                    self._client.http.token = await self._token.newest()
                return await request()
        except SidecarError as error:  # of an answer that proves nothing
            self._on_error(operation, error)
            raise
        except _FOREIGN as error:
            translated = translate(operation, error)
            is_answer = isinstance(translated, Conflict | CheckCritical)
            if not is_answer and not (absent and isinstance(translated, NotFound)):
                self._on_error(operation, translated)
            raise translated from error


class CheckCritical(Rejected):
    """No session yet: a check that it is to be bound to is not passing, or not in the catalog."""


# The library's and the transport's errors, and what comes of reading an unexpected response.
_FOREIGN = (
    consul.base.ConsulException,
    aiohttp.ClientError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)


def translate(operation: str, error: Exception) -> SidecarError:
    """The package's own error for one of python-consul2, aiohttp, the system or of reading."""
    text = words(error)
    # Where something else answers, that may be a page.
    said = cut(text, _SAID).partition("\n")[0]
    if isinstance(error, aiohttp.ClientConnectorError):
        said = f"{error.host}:{error.port}: {said}"
    message = f"Consul: {operation}: {said}"
    match error:
        case consul.base.NotFound():
            return NotFound(message)
        case consul.base.ClientError() if text.startswith("409"):
            return _rolled_back(operation, text)
        case consul.base.ClientError() if text.startswith("429"):  # it takes no more just now
            return Unavailable(message + (_CROWDED if "concurrent connections" in text else ""))
        case (
            consul.base.ACLPermissionDenied()
            | consul.base.ACLDisabled()
            | consul.base.BadRequest()
            | consul.base.ClientError()
        ):
            return Rejected(message)
        case consul.base.ConsulException():
            return _failed(message)
        case TimeoutError():
            return Unavailable(f"Consul: {operation}: no answer in time")
        case aiohttp.ServerDisconnectedError():
            return Unavailable(message + _CROWDED_PERHAPS)
        case aiohttp.ClientError() | OSError():
            return Unavailable(message)
        case _:
            return Unavailable(f"Consul: {operation}: unexpected response")


def _failed(message: str) -> SidecarError:
    """What an answer of 500 means: Consul gives it to some requests that it refuses."""
    for kind, said in _REFUSED.items():
        if said.search(message):
            return kind(message)
    return Unavailable(message)


def _rolled_back(operation: str, text: str) -> SidecarError:
    """Why a transaction was rolled back; the reasons are only told in words."""
    try:
        errors = json.loads(text.removeprefix("409"))["Errors"]
        what = "; ".join(str(each["What"]) for each in errors)
    except (ValueError, LookupError, TypeError):
        what = text
    message = f"Consul: {operation}: {what}"
    if "invalid session" in what:
        return SessionLost(message)
    return Conflict(message) if _CONFLICTS.search(what) else Rejected(message)


# What Consul 1.8 to 1.23 say of a lock, a session check and a compare-and-set that do not apply.
_CONFLICTS = re.compile(
    "lock is already held|due to lock delay|lock isn't held|session check for key"
    "|index check for key|index is stale|doesn't exist"
)
_REFUSED: Mapping[type[Rejected], re.Pattern[str]] = {
    # Of an id that the agent does not know. 1.8 says it where ACLs are on, later ones say 404.
    NotFound: re.compile("does not have associated TTL|Unknown (check|service)"),
    # A registration reaches the catalog a moment after the agent has it.
    CheckCritical: re.compile("is in critical state|Missing (check|node) "),
    Rejected: re.compile("Invalid Session TTL"),
}
# Later agents say that a client has too many connections; 1.8 closes those beyond without a word.
_CROWDED = " (the agent's limits.http_max_conns_per_client: each watch occupies a connection)"
_CROWDED_PERHAPS = "; if it stays so, see limits.http_max_conns_per_client of the agent"


_BY_ID = ("agent/check/update/", "agent/service/", "health/service/", "health/node/", "kv/")


def _operation(path: str) -> str:
    """The part of a path that is the same for every id: `session/create`, `health/service`."""
    name = path.removeprefix("/v1/")
    if name == "agent/service/register":
        return name
    return next((prefix.rstrip("/") for prefix in _BY_ID if name.startswith(prefix)), name)


def _operation_body(operation: Operation) -> dict[str, Any]:
    """One operation as `txn` takes it."""
    body: dict[str, Any] = {"Key": operation.key}
    if isinstance(operation, Set | Lock | Unlock):
        body["Value"] = base64.b64encode(operation.value).decode()
    match operation:
        case Set(index=None):
            return {"Verb": "set", **body}
        case Set(index=index):
            return {"Verb": "cas", "Index": index, **body}
        case Delete(index=index):
            return {"Verb": "delete-cas", "Index": index, **body}
        case Unchanged(index=index):
            return {"Verb": "check-index", "Index": index, **body}
        case Lock(session=session):
            return {"Verb": "lock", "Session": session, **body}
        case Unlock(session=session):
            return {"Verb": "unlock", "Session": session, **body}
        case HoldsLock(session=session):
            return {"Verb": "check-session", "Session": session, **body}


def _checked(response: Response, absent: bool = False) -> Response:
    consul.base.CB._status(response, allow_404=absent)
    return response


def _absent(response: Response) -> bool:
    """Whether Consul says that there is no such key.

    Raises:
        Unavailable: it is not Consul that says so.
    """
    if response.code == 404:
        _index(response)
    return response.code == 404


def _index(response: Response) -> int:
    """The index of an answer; anybody may say 404, or 200 with an empty list, and no index.

    Raises:
        Unavailable: it is not Consul that says so.
    """
    if (index := response.headers.get("X-Consul-Index")) is None:
        raise Unavailable(f"Consul: {response.code} without X-Consul-Index, so not from Consul")
    return int(index)


def _ignored(response: Response) -> None:
    """For answers that say nothing beyond their status."""


def _json(response: Response) -> Any:
    return json.loads(response.body)


def _json_or_none(response: Response) -> Any:
    try:
        return _json(response)
    except ValueError:
        return None


def _is_local(url: str) -> bool:
    """Whether a URL names this machine, as far as that can be told without asking anybody."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _answer(response: Response, value: T, *, streams: bool = False) -> QueryResult[T]:
    """The answer to a read; `streams` if later agents answer such from a view of their own.

    Raises:
        Unavailable: it is not Consul that answers.
    """
    index = _index(response)
    known_leader = response.headers.get("X-Consul-KnownLeader", "true") == "true"
    filtered = response.headers.get("X-Consul-Results-Filtered-By-ACLs") == "true"
    backend = response.headers.get("X-Consul-Query-Backend")
    if streams and backend is None and "X-Consul-Default-ACL-Policy" in response.headers:
        # 1.10 and 1.11 stream without telling so. (The policy is told since 1.9.)
        streamed = not known_leader
    else:
        streamed = backend == "streaming"
    return QueryResult(value, index, known_leader and not streamed, streamed, filtered)


def _check(found: Mapping[str, Any]) -> Check:
    return Check(
        id=found["CheckID"],
        name=found["Name"],
        status=found["Status"],
        output=found["Output"],
        service_id=found["ServiceID"],
        notes=found.get("Notes") or "",
    )


def _checks(found: Iterable[Mapping[str, Any]]) -> tuple[Check, ...]:
    return tuple(sorted(map(_check, found), key=lambda check: check.id))


# Between two entries of `health/service`: the end of one, and the start of the next one's node.
_END, _BEGIN = b"}", b'{"Node":{'


def _health_entries(
    content: bytes, known: Mapping[bytes, ServiceEntry]
) -> list[tuple[bytes, ServiceEntry]]:
    """The entries of an answer of `health/service` with their texts; `known` are not read again.

    The texts are found without reading them: no string of JSON can hold the separator, since its
    quotes would be escaped. Should it stand deeper than between two entries, the texts around it
    are no JSON, and the answer is read as a whole.
    """
    begin, end = b"[" + _BEGIN, _END + b"]"
    if content.startswith(begin) and content.endswith(end):
        parts = content[len(begin) : -len(end)].split(_END + b"," + _BEGIN)
        texts = [_BEGIN + part + _END for part in parts]
        try:
            return [(text, known.get(text) or _health_entry(_parsed(text))) for text in texts]
        except ValueError:
            pass
    return [(b"", _health_entry(found)) for found in _parsed(content)]


def _parsed(text: bytes) -> Any:
    return json.loads(text.decode(errors="replace"))


def _health_entry(found: Mapping[str, Any]) -> ServiceEntry:
    return _service_entry(found["Node"]["Node"], found["Service"], found["Checks"], found["Node"])


def _service_entry(
    node: str,
    service: Mapping[str, Any],
    checks: Iterable[Mapping[str, Any]],
    fallback: Mapping[str, Any],
) -> ServiceEntry:
    weights = service.get("Weights") or {}
    return ServiceEntry(
        node=node,
        id=service["ID"],
        name=service["Service"],
        address=service["Address"] or fallback.get("Address", ""),
        port=service["Port"],
        tags=tuple(service["Tags"] or ()),
        meta=service.get("Meta") or {},
        weight_passing=weights.get("Passing", 1),
        weight_warning=weights.get("Warning", 1),
        checks=_checks(checks),
        node_meta=fallback.get("Meta") or {},
    )


def _kv_entry(found: Mapping[str, Any]) -> KVEntry:
    return KVEntry(
        key=found["Key"],
        value=base64.b64decode(found["Value"] or ""),
        session=found.get("Session"),
        modify_index=found["ModifyIndex"],
        lock_index=found["LockIndex"],
        create_index=found["CreateIndex"],
    )
