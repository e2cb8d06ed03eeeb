"""Responses of Consul: their JSON, and what their headers say. Pure."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from sidecar.consul.api import QueryResult
from sidecar.runtime.errors import Unavailable

T = TypeVar("T")


class Response(NamedTuple):
    """A response in the shape that python-consul2's callbacks expect."""

    code: int
    headers: Mapping[str, str]
    body: str
    content: bytes


def is_absent(response: Response) -> bool:
    """Whether Consul says that there is no such key.

    Raises:
        Unavailable: the response is not from Consul.
    """
    if response.code == 404:
        index_of(response)
    return response.code == 404


def index_of(response: Response) -> int:
    """The index of a response; only Consul sends one, while any server may answer 404 or `[]`.

    Raises:
        Unavailable: the response is not from Consul.
    """
    if (index := response.headers.get("X-Consul-Index")) is None:
        raise Unavailable(f"Consul: {response.code} without X-Consul-Index, so not from Consul")
    return int(index)


def json_of(response: Response) -> Any:
    """The body as JSON's values.

    Raises:
        ValueError: it is no JSON.
    """
    return json.loads(response.body)


def json_or_none(response: Response) -> Any:
    """The body as JSON's values; None if it is no JSON."""
    try:
        return json_of(response)
    except ValueError:
        return None


def query_result(response: Response, value: T, *, streams: bool = False) -> QueryResult[T]:
    """The result of a read; `streams` if newer agents answer this query from their own view.

    Raises:
        Unavailable: the response is not from Consul.
    """
    index = index_of(response)
    known_leader = response.headers.get("X-Consul-KnownLeader", "true") == "true"
    filtered = response.headers.get("X-Consul-Results-Filtered-By-ACLs") == "true"
    backend = response.headers.get("X-Consul-Query-Backend")
    if streams and backend is None and "X-Consul-Default-ACL-Policy" in response.headers:
        # 1.10 and 1.11 do not mark streamed responses. (They have the policy's header since 1.9.)
        streamed = not known_leader
    else:
        streamed = backend == "streaming"
    return QueryResult(value, index, known_leader and not streamed, streamed, filtered)
