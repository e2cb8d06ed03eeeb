"""Streamed answers of Consul, as its versions mark them."""

from collections.abc import Mapping

import pytest

from sidecar.consul.access import ConsulAccess
from sidecar.consul.api import QueryResult, ServiceEntry
from sidecar.consul.client import Consul
from sidecar.consul.response import Response
from sidecar.consul.transport import Transport
from sidecar.runtime.errors import Unavailable

POLICY = {"X-Consul-Default-ACL-Policy": "allow"}
BLOCKING, STREAMING = ({"X-Consul-Query-Backend": each} for each in ("blocking-query", "streaming"))
ENTRY = (
    b'[{"Node":{"Node":"n","Address":"::1"},"Service":{"ID":"a","Service":"t","Address":"",'
    b'"Port":1,"Tags":null},"Checks":[]}]'
)


async def read(
    headers: Mapping[str, str], index: int, content: bytes = ENTRY
) -> QueryResult[tuple[ServiceEntry, ...]]:
    """The result of a query from an index, given this response."""

    async def send(*_: object) -> Response:
        return Response(200, headers, content.decode(), content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transport, "send", send)
        async with Consul(ConsulAccess()) as consul:
            return await consul.health_service("t", index=index, wait=0.1)


@pytest.mark.parametrize(
    ("marks", "index", "leader", "streamed"),
    [
        ({}, 7, "true", False),  # 1.8
        ({}, 7, "false", False),
        (POLICY, 7, "true", False),  # 1.10 and 1.11 do not mark streamed answers
        (POLICY, 0, "false", False),
        (POLICY, 7, "false", True),
        (POLICY | BLOCKING, 7, "true", False),
        (POLICY | BLOCKING, 7, "false", False),
        (POLICY | STREAMING, 7, "false", True),
    ],
)
async def test_a_streamed_answer_does_not_tell_whether_there_is_a_leader(
    marks: dict[str, str], index: int, leader: str, streamed: bool
) -> None:
    headers = {"X-Consul-Index": "9", "X-Consul-KnownLeader": leader} | marks
    answer = await read(headers, index)
    known = leader == "true" and not streamed
    assert (answer.streamed, answer.known_leader, len(answer.value)) == (streamed, known, 1)


@pytest.mark.parametrize(
    ("marks", "index", "refused"),
    [
        (STREAMING, "1", True),
        (POLICY, "1", True),
        (STREAMING, "9", False),
        (BLOCKING, "1", False),
        ({}, "1", False),
    ],
)
async def test_an_empty_list_from_an_unfilled_view_is_an_error(
    marks: dict[str, str], index: str, refused: bool
) -> None:
    headers = {"X-Consul-Index": index, "X-Consul-KnownLeader": "false"} | marks
    if refused:
        with pytest.raises(Unavailable, match="not heard of t yet"):
            await read(headers, 7, b"[]")
    else:
        assert (await read(headers, 7, b"[]")).value == ()
