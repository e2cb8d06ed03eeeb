"""The headers of a response: index, leader, streaming, and what ACLs filtered."""

import pytest

from sidecar.consul.api import QueryResult
from sidecar.consul.response import Response, query_result
from sidecar.runtime.errors import Unavailable


@pytest.mark.parametrize(
    ("headers", "answer"),
    [
        ({"X-Consul-Index": "7", "X-Consul-KnownLeader": "true"}, QueryResult((), 7, True)),
        ({"X-Consul-KnownLeader": "false"}, QueryResult((), 1, False)),
        (
            {"X-Consul-KnownLeader": "true", "X-Consul-Results-Filtered-By-ACLs": "true"},
            QueryResult((), 1, True, filtered=True),
        ),
        ({"X-Consul-Query-Backend": "streaming"}, QueryResult((), 1, False, streamed=True)),
    ],
)
def test_the_headers_of_a_response_are_read(
    headers: dict[str, str], answer: QueryResult[tuple[()]]
) -> None:
    headers = {"X-Consul-Index": "1", **headers}
    assert query_result(Response(200, headers, "[]", b"[]"), ()) == answer


def test_a_response_without_an_index_is_not_from_consul() -> None:
    with pytest.raises(Unavailable, match="200 without X-Consul-Index, so not from Consul"):
        query_result(Response(200, {}, "[]", b"[]"), ())
