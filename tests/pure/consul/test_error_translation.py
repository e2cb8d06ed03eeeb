"""The translation of Consul's errors and statuses, as its versions word them."""

import aiohttp
import consul.base
import pytest

from sidecar.consul.error_translation import CheckCritical, translate
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
def test_each_error_of_consul_is_translated_to_one_class(
    error: Exception, kind: type[SidecarError]
) -> None:
    assert type(translate("x", error)) is kind


@pytest.mark.parametrize(
    "error",
    [
        REFUSED("429 Your IP is issuing too many concurrent connections, please rate limit"),
        aiohttp.ServerDisconnectedError(),  # 1.8 gives no more detail
    ],
)
def test_the_connection_limit_is_named(error: Exception) -> None:
    translated = translate("kv", error)
    assert isinstance(translated, Unavailable)
    assert "limits.http_max_conns_per_client" in str(translated)
