"""The translation of errors and statuses of Consul, python-consul2 and aiohttp into ours.

Acts: aiohttp, consul.
"""

import json
import re
from collections.abc import Mapping

import aiohttp
import consul.base

from sidecar.consul.api import cut
from sidecar.consul.response import Response
from sidecar.runtime.errors import (
    Conflict,
    NotFound,
    Rejected,
    SessionLost,
    SidecarError,
    Unavailable,
    words,
)

_QUOTED = 500  # bytes of Consul's error message that are quoted


class CheckCritical(Rejected):
    """No session yet: a check to bind it to is not passing, or not in the catalog."""


# The errors of the library and the transport, and those of parsing an unexpected response.
FOREIGN = (
    consul.base.ConsulException,
    aiohttp.ClientError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)


def translate(operation: str, error: Exception) -> SidecarError:
    """Our error for one of python-consul2, aiohttp, the system or of parsing."""
    text = words(error)
    # Something other than Consul may answer with a whole page.
    reason = cut(text, _QUOTED).partition("\n")[0]
    if isinstance(error, aiohttp.ClientConnectorError):
        reason = f"{error.host}:{error.port}: {reason}"
    message = f"Consul: {operation}: {reason}"
    match error:
        case consul.base.NotFound():
            return NotFound(message)
        case consul.base.ClientError() if text.startswith("409"):
            return _rolled_back(operation, text)
        case consul.base.ClientError() if text.startswith("429"):  # rate limited
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
    """What a 500 means: Consul also answers it to some requests that it rejects."""
    for kind, pattern in _REFUSED.items():
        if pattern.search(message):
            return kind(message)
    return Unavailable(message)


def _rolled_back(operation: str, text: str) -> SidecarError:
    """Why a transaction was rolled back; Consul gives the reason only as a sentence."""
    try:
        errors = json.loads(text.removeprefix("409"))["Errors"]
        what = "; ".join(str(each["What"]) for each in errors)
    except (ValueError, LookupError, TypeError):
        what = text
    message = f"Consul: {operation}: {what}"
    if "invalid session" in what:
        return SessionLost(message)
    return Conflict(message) if _CONFLICTS.search(what) else Rejected(message)


# How Consul 1.8 to 1.23 report a lock, session check or compare-and-set that does not apply.
_CONFLICTS = re.compile(
    "lock is already held|due to lock delay|lock isn't held|session check for key"
    "|index check for key|index is stale|doesn't exist"
)
_REFUSED: Mapping[type[Rejected], re.Pattern[str]] = {
    # An id that the agent does not know: so 1.8 with ACLs; later versions answer 404.
    NotFound: re.compile("does not have associated TTL|Unknown (check|service)"),
    # The agent syncs a registration to the catalog with a short delay.
    CheckCritical: re.compile("is in critical state|Missing (check|node) "),
    Rejected: re.compile("Invalid Session TTL"),
}
# Later agents report too many connections of a client; 1.8 silently closes the excess ones.
_CROWDED = " (the agent's limits.http_max_conns_per_client: each watch occupies a connection)"
_CROWDED_PERHAPS = "; if it stays so, see limits.http_max_conns_per_client of the agent"


def check_status(response: Response, may_be_absent: bool = False) -> Response:
    """The response, if its status is a success, or 404 where that is an answer.

    Raises:
        ConsulException: python-consul2's, for any other status; `translate` knows it.
    """
    consul.base.CB._status(response, allow_404=may_be_absent)
    return response
