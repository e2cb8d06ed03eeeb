"""What the door makes of answers as versions of Consul word and mark them."""

from collections.abc import Mapping

import aiohttp
import consul.base
import pytest

from sidecar.consul.access import ConsulAccess
from sidecar.consul.api import QueryResult, ServiceEntry
from sidecar.consul.client import CheckCritical, Consul, translate
from sidecar.consul.transport import Response, Transport
from sidecar.runtime.errors import (
    Conflict,
    NotFound,
    Rejected,
    SessionLost,
    SidecarError,
    Unavailable,
)

FAILED, REFUSED = consul.base.ConsulException, consul.base.ClientError


def rolled_back(what: str) -> str:
    return f'409 {{"Results":null,"Errors":[{{"OpIndex":0,"What":"{what}"}}]}}'


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        # 1.8, 1.8 with ACLs, later ones
        (FAILED('500 CheckID "x" does not have associated TTL'), NotFound),
        (FAILED('500 Unknown check "x"'), NotFound),
        (FAILED('500 Unknown service {"x" {}}'), NotFound),
        (consul.base.NotFound('Unknown check ID "x".'), NotFound),
        # an agent that is a server, and a client; 1.8 and later
        (FAILED("500 Check 'x' is in critical state"), CheckCritical),
        (FAILED("500 rpc error: apply failed: Check 'x' is in critical state"), CheckCritical),
        (FAILED("500 rpc error making call: Missing check 'x' registration"), CheckCritical),
        (FAILED("500 apply failed: Missing node registration"), CheckCritical),
        (FAILED("500 Invalid Session TTL '5000000000', must be between [10s=24h0m0s]"), Rejected),
        (consul.base.ACLPermissionDenied("rpc error making call: ACL not found"), Rejected),
        (consul.base.ACLPermissionDenied("Permission denied: anonymous token lacks"), Rejected),
        (consul.base.BadRequest('400 Request decode failed: json: unknown field "x"'), Rejected),
        (REFUSED("413 Transaction contains too many operations (65 > 64)"), Rejected),
        (REFUSED("429 rate limit exceeded, try again later"), Unavailable),
        (FAILED("500 No cluster leader"), Unavailable),
        (FAILED("500 No known Consul servers"), Unavailable),
        (FAILED("503 error reading from server: EOF"), Unavailable),
        (REFUSED(rolled_back("failed to lock key 'k', lock is already held")), Conflict),
        (REFUSED(rolled_back("invalid session 'x'")), SessionLost),
        (REFUSED(rolled_back("Permission denied: token lacks permission 'key:write'")), Rejected),
    ],
)  # fmt: skip
def test_what_consul_says_has_one_meaning(error: Exception, kind: type[SidecarError]) -> None:
    assert type(translate("x", error)) is kind


@pytest.mark.parametrize(
    "error",
    [
        REFUSED("429 Your IP is issuing too many concurrent connections, please rate limit"),
        aiohttp.ServerDisconnectedError(),  # all that 1.8 lets one know
    ],
)
def test_the_limit_on_connections_is_named(error: Exception) -> None:
    translated = translate("kv", error)
    assert isinstance(translated, Unavailable)
    assert "limits.http_max_conns_per_client" in str(translated)


POLICY = {"X-Consul-Default-ACL-Policy": "allow"}
BLOCKING, STREAMING = ({"X-Consul-Query-Backend": each} for each in ("blocking-query", "streaming"))
ENTRY = (
    b'[{"Node":{"Node":"n","Address":"::1"},"Service":{"ID":"a","Service":"t","Address":"",'
    b'"Port":1,"Tags":null},"Checks":[]}]'
)


async def read(
    headers: Mapping[str, str], index: int, content: bytes = ENTRY
) -> QueryResult[tuple[ServiceEntry, ...]]:
    """What a query from an index on comes to when it is answered like this."""

    async def send(*_: object) -> Response:
        return Response(200, headers, content.decode(), content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transport, "send", send)
        async with Consul(ConsulAccess()) as door:
            return await door.health_service("t", index=index, wait=0.1)


@pytest.mark.parametrize(
    ("marks", "index", "leader", "streamed"),
    [
        ({}, 7, "true", False),  # 1.8
        ({}, 7, "false", False),
        (POLICY, 7, "true", False),  # 1.10 and 1.11 do not say what they stream
        (POLICY, 0, "false", False),
        (POLICY, 7, "false", True),
        (POLICY | BLOCKING, 7, "true", False),
        (POLICY | BLOCKING, 7, "false", False),
        (POLICY | STREAMING, 7, "false", True),
    ],
)
async def test_what_is_streamed_says_nothing_about_a_leader(
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
async def test_an_empty_list_that_comes_of_knowing_nothing_is_an_error(
    marks: dict[str, str], index: str, refused: bool
) -> None:
    headers = {"X-Consul-Index": index, "X-Consul-KnownLeader": "false"} | marks
    if refused:
        with pytest.raises(Unavailable, match="not heard of t yet"):
            await read(headers, 7, b"[]")
    else:
        assert (await read(headers, 7, b"[]")).value == ()
