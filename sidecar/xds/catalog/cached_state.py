"""The last good catalog as a document that outlives the process. Pure.

Two lines of JSON: the format with a checksum, and the content. It is accepted as a whole or not at
all.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from pydantic import TypeAdapter, ValidationError

from sidecar.runtime.errors import ConfigError, Rejected
from sidecar.traffic.document import parse
from sidecar.traffic.guard import Rollback
from sidecar.xds.catalog.catalog import Instance
from sidecar.xds.catalog.catalog_entries import is_valid
from sidecar.xds.catalog.policy_indexes import NEVER, PolicyIndexes
from sidecar.xds.catalog.retention import Leadership

_FORMAT = 1
_NO_LEADER = Leadership()


class UnusableState(Rejected):
    """The document is of no use here: another format, or other services."""


class CorruptState(UnusableState):
    """The document is damaged."""


@dataclass(frozen=True, slots=True)
class CachedService:
    """One service: the instances of all datacenters, the leader, and the policy's original text.

    `missing` instances are those that Consul did not show, since when (Unix seconds); `since` dates
    the policy by its indexes.
    """

    instances: tuple[Instance, ...] = ()
    missing: Mapping[str, int] = field(default_factory=dict)
    leadership: Leadership = _NO_LEADER
    policy: str | None = None
    since: PolicyIndexes = NEVER


@dataclass(frozen=True, slots=True)
class CachedState:
    """All known services by name; `services` are all that the control plane follows.

    `zone` is the control plane's own, None if unknown. `rollbacks` of guards that were in force, by
    service: Consul may not know about them.
    """

    services: tuple[str, ...]
    kept: Mapping[str, CachedService] = field(default_factory=dict)
    zone: str | None = None
    rollbacks: Mapping[str, Rollback] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Header:
    format: int
    blake2b: str = ""


@dataclass(frozen=True, slots=True)
class _Body:
    saved: int
    state: CachedState


_HEADERS = TypeAdapter(_Header)
_BODIES = TypeAdapter(_Body)


def dump(state: CachedState, saved: float) -> bytes:
    """The document, saved at a time in Unix seconds."""
    body = _BODIES.dump_json(_Body(int(saved), state))
    header = json.dumps({"format": _FORMAT, "blake2b": _checksum(body)})
    return b"%s\n%s\n" % (header.encode(), body)


def is_header(line: bytes) -> bool:
    """Whether a document that begins with this line is one of these, in any format."""
    try:
        _HEADERS.validate_json(line)
    except ValidationError:
        return False
    return True


def load(document: bytes, services: Iterable[str]) -> tuple[CachedState, int]:
    """A document's state of these services, and when it was saved (Unix seconds).

    Services that are no longer followed are left out; it has nothing on new ones.

    Raises:
        CorruptState: it is damaged.
        UnusableState: it has another format, or other services only.
    """
    first, _, rest = document.partition(b"\n")
    try:
        header = _HEADERS.validate_json(first)
    except ValidationError:
        raise CorruptState("expected a first line with its format, found something else") from None
    if header.format != _FORMAT:
        raise UnusableState(f"expected format {_FORMAT}, found {header.format}")
    body = rest.removesuffix(b"\n")
    if header.blake2b != _checksum(body):
        raise CorruptState("wrong checksum: the file was truncated or changed")
    try:
        read = _BODIES.validate_json(body)
        _check(read.state)
    except (ValidationError, ConfigError):
        raise CorruptState(
            "expected instances, leaders and policies, found something else"
        ) from None
    wanted = tuple(services)
    both = tuple(name for name in read.state.services if name in wanted)
    if not both:
        found = ", ".join(read.state.services)
        raise UnusableState(f"expected the services {', '.join(wanted)}, found {found}")
    kept = {name: each for name, each in read.state.kept.items() if name in both}
    rollbacks = {name: each for name, each in read.state.rollbacks.items() if name in both}
    return replace(read.state, services=both, kept=kept, rollbacks=rollbacks), read.saved


def _check(state: CachedState) -> None:
    """Whether all of it is valid input for the snapshot builder.

    Raises:
        ConfigError: it is not.
    """
    if not state.rollbacks.keys() <= set(state.services):
        raise ConfigError("expected rollbacks of services that are followed")
    for name, kept in state.kept.items():
        ids = {instance.id for instance in kept.instances}
        sound = all(map(is_valid, kept.instances)) and len(ids) == len(kept.instances)
        if name not in state.services or not sound or not kept.missing.keys() <= ids:
            raise ConfigError(f"{name}: expected valid instances")
        if kept.policy is not None:
            parse(kept.policy)


def _checksum(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=32).hexdigest()
