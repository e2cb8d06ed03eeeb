"""The registration that Consul should hold for an instance, and how it differs. Pure."""

from dataclasses import dataclass
from typing import Any

from sidecar.consul.api import Check, ServiceEntry, Status, cut
from sidecar.registry.checks import (
    SERVICE_MAINTENANCE,
    WITHDRAWAL_META,
    WITHDRAWN,
    is_withdrawal,
    sidecar_check,
    verdict_check,
)
from sidecar.verdict.verdict import Verdict
from sidecar.verdict.verdict_line import State

# A TTL check is renewed this often, and may miss two renewals before it turns critical.
HEARTBEAT = 3.0
_TTL = "10s"
_STATUSES: dict[State, Status] = {State.PASSING: "passing", State.WARNING: "warning"}
# A standby without loaded models; and the tag of one that is never to be primary.
COLD, HOT = "cold", "hot"
NOFAILOVER = "nofailover"
# How an instance stands for election if it does not say otherwise; see election.mode.
PREFERRED = "preferred"
MODE_META = "election_mode"
# Sentences for people. To programs they say that it is so by being there, and nothing else: why
# automation is paused, why the instance may not become primary, whose model set is another one.
PAUSED_META, UNFIT_META, DIFFERS_META = "paused", "unfit", "model_set_differs"
# Whether an instance that somebody takes out of service goes on serving until another one does.
HANDS_OVER_META, YES = "hands_over", "true"
PRIORITY = 100
# Requests in flight that an instance may declare; the sum over a service stays within a uint32.
MAX_CAPACITY = 1_000_000
_LONGEST = 512  # bytes of a value of meta
# Pairs of meta that settings may have: Consul takes 64, and the sidecar's own are up to 17.
MAX_META = 47
# Weights are kept in hundredths, so that one can be lowered by a percentage.
_HUNDRED = 100
# Consul's own poll of the sidecar: a second is the fastest that Consul polls. One poll that fails
# may be a machine that stood still, and would end the session (docs/decisions/0030).
_POLL = {"Interval": "1s", "Timeout": "1s", "FailuresBeforeCritical": 2}


@dataclass(frozen=True, slots=True)
class InstanceInfo:
    """What the settings say of the instance.

    `sidecar` is the host:port that others dial; `forget_after` the seconds after which Consul
    removes the entry of an instance whose sidecar is gone. `capacity` is how many requests it can
    have in flight, None if it does not say.
    """

    id: str
    service: str
    address: str
    port: int
    weight: int
    tags: tuple[str, ...]
    meta: tuple[tuple[str, str], ...]
    models: tuple[str, ...]
    sidecar: str
    liveness: str
    forget_after: float = 3600.0
    capacity: int | None = None
    zone: str = ""

    @property
    def verdict_check(self) -> str:
        """Id of the check that the sidecar pushes."""
        return verdict_check(self.id)

    @property
    def sidecar_check(self) -> str:
        """Id of the check by which Consul polls the sidecar."""
        return sidecar_check(self.id)


@dataclass(frozen=True, slots=True)
class InstanceMeta:
    """What changes seldom: role and epoch for people, what is served, how it stands for election.

    `warning_percent` is how much of its weight the instance keeps while its verdict is WARNING.
    `unfit` is why it may not become primary, as far as its checks do not say so; `settled_at` when
    (Unix seconds) it will have passed for long enough to take the role, None if it has or does not
    pass; `paused` why automation is off; `differs` whose model set is another one; `mode` what
    the role means to it, as election.mode says; `hands_over` whether it still serves until another
    one does, should somebody take it out of service.
    """

    role: str = "standby"
    epoch: int = 0
    warning_percent: int = 50
    triton_version: str = ""
    model_set: str = ""
    gpus: str = ""
    priority: int = PRIORITY
    standby: str = HOT
    unfit: str = ""
    settled_at: float | None = None
    paused: str = ""
    differs: str = ""
    mode: str = PREFERRED
    hands_over: bool = True


def registration(instance: InstanceInfo, meta: InstanceMeta) -> dict[str, Any]:
    """The body for Consul's `agent/service/register`.

    Only fields that Consul 1.8 knows: it answers 400 to any other.
    """
    return {
        "ID": instance.id,
        "Name": instance.service,
        "Address": instance.address,
        "Port": instance.port,
        "Tags": list(_tags(instance, meta)),
        "Meta": _meta(instance, meta),
        "Weights": dict(zip(("Passing", "Warning"), _weights(instance, meta), strict=True)),
        "Checks": [
            {
                "CheckID": instance.verdict_check,
                "Name": "Triton verdict",
                "Notes": "Pushed by the sidecar when its verdict changes.",
                "TTL": _TTL,
            },
            {
                "CheckID": instance.sidecar_check,
                "Name": "Sidecar alive",
                "Notes": "Polled by Consul: the dead man's switch.",
                "GRPC": f"{instance.sidecar}/{instance.liveness}",
                **_POLL,
                # The sidecar is gone for good, and so is the instance.
                "DeregisterCriticalServiceAfter": f"{instance.forget_after:.0f}s",
            },
        ],
    }


def differences(instance: InstanceInfo, meta: InstanceMeta, observed: ServiceEntry | None) -> str:
    """Why the agent's record has to be written anew, or nothing."""
    if observed is None:
        return "not registered"
    wanted: list[tuple[str, object, object]] = [
        ("address", (instance.address, instance.port), (observed.address, observed.port)),
        ("tags", _tags(instance, meta), observed.tags),
        ("meta", _meta(instance, meta), dict(observed.meta)),
        (
            "weights",
            _weights(instance, meta),
            (observed.weight_passing, observed.weight_warning),
        ),
    ]
    found = [name for name, wished, is_ in wanted if wished != is_]
    checks = {check.id for check in observed.checks}
    if missing := {instance.verdict_check, instance.sidecar_check} - checks:
        found.append("checks " + ", ".join(sorted(missing)))
    return "differs in " + ", ".join(found) if found else ""


def check_status(verdict: Verdict, before: Status) -> Status:
    """The status of the pushed check, given the one that was pushed before.

    A draining instance keeps the status that its session is bound to, for the lock is handed over
    when the work in flight is done. What withdraws it is maintenance mode.
    """
    if verdict.state is State.DRAINING:
        return before
    maintained = verdict.state is State.MAINTENANCE  # which has a check of its own
    return _STATUSES.get(verdict.fitness if maintained else verdict.state, "critical")


def maintenance(observed: ServiceEntry | None) -> str | None:
    """Why an instance itself, not its node, is in Consul's maintenance mode; None if it is not."""
    found = _maintenance(observed)
    return found.notes if found else None


def maintenance_of_others(observed: ServiceEntry | None) -> str | None:
    """Why somebody else has put the instance itself into maintenance mode, or None."""
    return None if withdrawn(observed) else maintenance(observed)


def withdrawn(observed: ServiceEntry | None) -> bool:
    """Whether a sidecar of its own has put the instance into maintenance mode."""
    found = _maintenance(observed)
    return bool(observed and found and is_withdrawal(found, observed.meta))


def _maintenance(observed: ServiceEntry | None) -> Check | None:
    checks = observed.checks if observed else ()
    return next((check for check in checks if check.id.startswith(SERVICE_MAINTENANCE)), None)


def _weights(instance: InstanceInfo, meta: InstanceMeta) -> tuple[int, int]:
    """What Consul is to use while the instance passes, and in WARNING."""
    return instance.weight * _HUNDRED, instance.weight * meta.warning_percent


def _tags(instance: InstanceInfo, meta: InstanceMeta) -> tuple[str, ...]:
    return (meta.role, *(f"model:{model}" for model in instance.models), *instance.tags)


def _meta(instance: InstanceInfo, meta: InstanceMeta) -> dict[str, str]:
    own = {
        "sidecar_grpc_port": instance.sidecar.rpartition(":")[2],
        "role": meta.role,
        "epoch": str(meta.epoch) if meta.epoch else "",
        "triton_version": meta.triton_version,
        "model_set": meta.model_set,
        "gpu_uuids": meta.gpus,
        "capacity": "" if instance.capacity is None else str(instance.capacity),
        "zone": instance.zone,
        # What is usual is left out.
        "priority": "" if meta.priority == PRIORITY else str(meta.priority),
        "standby": "" if meta.standby == HOT else meta.standby,
        MODE_META: "" if meta.mode == PREFERRED else meta.mode,
        HANDS_OVER_META: YES if meta.hands_over else "",
        UNFIT_META: meta.unfit,
        "settled_at": "" if meta.settled_at is None else f"{meta.settled_at:.1f}",
        PAUSED_META: meta.paused,
        DIFFERS_META: meta.differs,
        WITHDRAWAL_META: WITHDRAWN,
    }
    said = {key: cut(value, _LONGEST) for key, value in own.items() if value}
    return {**dict(instance.meta), **said}
