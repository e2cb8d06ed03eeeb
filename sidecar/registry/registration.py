"""The registration that Consul should hold for an instance, and how it differs. Pure."""

from collections.abc import Iterable
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
# A standby without loaded models, or with; and the tag of one that must never be primary.
COLD, HOT = "cold", "hot"
NOFAILOVER = "nofailover"
# The default of election.mode.
PREFERRED = "preferred"
MODE_META = "election_mode"
# Before a model's name in a tag: each model that the instance names; and each that it may not serve
# now although it serves others, after the reason's code and a colon.
MODEL_TAG, UNUSABLE_TAG = "model:", "model-unusable:"
# Text for people; to programs, only its presence counts: why automation is paused, why the instance
# may not become primary, and how its model set differs.
PAUSED_META, UNFIT_META, DIFFERS_META = "paused", "unfit", "model_set_differs"
# Whether an instance that is taken out of service keeps serving until another one serves.
# The faults that a drill may cause; without it the instance permits none, or knows of none.
DRILL_META = "drill"
HANDS_OVER_META, YES = "hands_over", "true"
PRIORITY = 100
# Requests in flight that an instance may declare; the sum over a service stays within a uint32.
MAX_CAPACITY = 1_000_000
_LONGEST = 512  # bytes of a value in meta
# Pairs in meta that settings may add: Consul allows 64, and the sidecar itself writes up to 17,
# and one more if it permits drills.
MAX_META = 47
# Weights are registered in hundredths, so that a percentage can lower one.
_HUNDRED = 100
# Consul's poll of the sidecar: one second is Consul's shortest interval. A single failed poll may
# mean that the machine was suspended, and would end the session (docs/decisions/0030).
_POLL = {"Interval": "1s", "Timeout": "1s", "FailuresBeforeCritical": 2}


@dataclass(frozen=True, slots=True)
class InstanceInfo:
    """The part of the registration that comes from settings.

    `sidecar` is the host:port that others dial, `forget_after` the seconds after which Consul
    removes the entry of an instance whose sidecar is gone. `capacity` is how many requests it can
    have in flight, None if unspecified.
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
        """Id of the check with which Consul polls the sidecar."""
        return sidecar_check(self.id)


@dataclass(frozen=True, slots=True)
class InstanceMeta:
    """The part that changes at run time: role and epoch for people, what is served, its candidacy.

    `warning_percent` is the share of its weight that the instance keeps while its verdict is
    WARNING. `unfit` is why it may not become primary, beyond its checks; `settled_at` when (Unix
    seconds) it will have passed for long enough to take the role, None if it has or does not pass;
    `paused` why automation is off; `differs` how its model set differs; `mode` is election.mode;
    `hands_over` whether, when it is taken out of service, it keeps serving until another one does;
    `drill` the faults that a drill may cause to it, separated by commas; `unusable` the models that
    it may not serve although it serves others, each with the reason's code.
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
    drill: str = ""
    unusable: tuple[tuple[str, str], ...] = ()


def registration(instance: InstanceInfo, meta: InstanceMeta) -> dict[str, Any]:
    """The body for Consul's `agent/service/register`.

    It has only fields that Consul 1.8 knows: it answers 400 to any other.
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
                # After that long, the sidecar and its instance are gone for good.
                "DeregisterCriticalServiceAfter": f"{instance.forget_after:.0f}s",
            },
        ],
    }


def differences(instance: InstanceInfo, meta: InstanceMeta, observed: ServiceEntry | None) -> str:
    """Why an entry must be registered again, or ""."""
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
    """The status of the pushed check, given the last one.

    A draining instance keeps the status that its session is bound to, because the lock is released
    only after the requests in flight have ended. Maintenance mode withdraws it.
    """
    if verdict.state is State.DRAINING:
        return before
    maintained = verdict.state is State.MAINTENANCE  # which has a separate check
    return _STATUSES.get(verdict.fitness if maintained else verdict.state, "critical")


def maintenance(observed: ServiceEntry | None) -> str | None:
    """Why an instance itself, not its node, is in Consul's maintenance mode; None if it is not."""
    found = _maintenance(observed)
    return found.notes if found else None


def maintenance_of_others(observed: ServiceEntry | None) -> str | None:
    """Why others have put the instance itself into maintenance mode, or None."""
    return None if withdrawn(observed) else maintenance(observed)


def withdrawn(observed: ServiceEntry | None) -> bool:
    """Whether the instance's own sidecar has put it into maintenance mode."""
    found = _maintenance(observed)
    return bool(observed and found and is_withdrawal(found, observed.meta))


def _maintenance(observed: ServiceEntry | None) -> Check | None:
    checks = observed.checks if observed else ()
    return next((check for check in checks if check.id.startswith(SERVICE_MAINTENANCE)), None)


def _weights(instance: InstanceInfo, meta: InstanceMeta) -> tuple[int, int]:
    """The weights for Consul while the instance passes, and in WARNING."""
    return instance.weight * _HUNDRED, instance.weight * meta.warning_percent


def _tags(instance: InstanceInfo, meta: InstanceMeta) -> tuple[str, ...]:
    named = (f"{MODEL_TAG}{model}" for model in instance.models)
    unusable = (f"{UNUSABLE_TAG}{reason}:{model}" for model, reason in meta.unusable)
    return (meta.role, *named, *unusable, *instance.tags)


def models_named(tags: Iterable[str]) -> tuple[str, ...]:
    """The models that an entry with these tags names, sorted."""
    found = {tag.removeprefix(MODEL_TAG) for tag in tags if tag.startswith(MODEL_TAG)}
    return tuple(sorted(found))


def models_unusable(tags: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """The models that an entry with these tags may not serve, with the reason's code; sorted."""
    texts = (tag.removeprefix(UNUSABLE_TAG) for tag in tags if tag.startswith(UNUSABLE_TAG))
    parts = (text.partition(":") for text in texts)
    return tuple(sorted({model: reason for reason, _, model in parts}.items()))


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
        # Defaults are left out.
        "priority": "" if meta.priority == PRIORITY else str(meta.priority),
        "standby": "" if meta.standby == HOT else meta.standby,
        MODE_META: "" if meta.mode == PREFERRED else meta.mode,
        HANDS_OVER_META: YES if meta.hands_over else "",
        UNFIT_META: meta.unfit,
        "settled_at": "" if meta.settled_at is None else f"{meta.settled_at:.1f}",
        PAUSED_META: meta.paused,
        DIFFERS_META: meta.differs,
        DRILL_META: meta.drill,
        WITHDRAWAL_META: WITHDRAWN,
    }
    values = {key: cut(value, _LONGEST) for key, value in own.items() if value}
    return {**dict(instance.meta), **values}
