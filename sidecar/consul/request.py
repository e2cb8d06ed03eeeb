"""Requests to Consul: their query parameters, bodies, and names in metrics. Pure."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sidecar.consul.api import (
    Delete,
    HoldsLock,
    Lock,
    Operation,
    Set,
    Unchanged,
    Unlock,
)


@dataclass(frozen=True, slots=True)
class Query:
    """A GET of `path`; it blocks for up to `wait` seconds if `index` > 0.

    `dc` and `near` are left out where empty. `may_be_absent`: a 404 is an answer, not an error.
    """

    path: str
    index: int = 0
    wait: float = 0.0
    consistent: bool = False
    dc: str = ""
    near: str = ""
    may_be_absent: bool = False
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def params(self) -> dict[str, str]:
        """The parameters of the URL."""
        params = dict(self.more)
        if self.index > 0:
            params |= {"index": str(self.index), "wait": f"{round(self.wait * 1000)}ms"}
        if self.consistent:
            params["consistent"] = "1"
        return params | {k: v for k, v in (("dc", self.dc), ("near", self.near)) if v}

    @property
    def blocks_for(self) -> float:
        """The longest that Consul holds the query back, in seconds.

        Consul adds up to a sixteenth to `wait`, so that watchers do not all wake at once.
        """
        return self.wait + self.wait / 16 if self.index > 0 else 0.0


_BY_ID = ("agent/check/update/", "agent/service/", "health/service/", "health/node/", "kv/")


def operation_name(path: str) -> str:
    """The part of a path that is the same for all ids: `session/create`, `health/service`."""
    name = path.removeprefix("/v1/")
    if name == "agent/service/register":
        return name
    return next((prefix.rstrip("/") for prefix in _BY_ID if name.startswith(prefix)), name)


def operation_body(operation: Operation) -> dict[str, Any]:
    """One operation of a transaction, as `/v1/txn` takes it."""
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
