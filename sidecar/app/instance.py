"""The instance of a sidecar: how its settings describe it, and the meta that Consul shows of it."""

from sidecar.election.lease import Role
from sidecar.election.participant import Participant
from sidecar.health import server as health_server
from sidecar.registry.registration import HOT, InstanceInfo, InstanceMeta
from sidecar.settings import SidecarSettings
from sidecar.verdict.verdict import Verdict

# While a primary is unconfirmed it cannot reach Consul, where its last role still counts.
_SHOWN_AS = {Role.UNCONFIRMED: Role.PRIMARY}


def describe(settings: SidecarSettings) -> InstanceInfo:
    """The instance with its address, weight, tags and meta."""
    return InstanceInfo(
        id=settings.instance,
        service=settings.service.name,
        address=settings.service.address,
        port=settings.service_port,
        weight=settings.service.weight,
        tags=settings.service.tags,
        meta=tuple(sorted(settings.service.meta.items())),
        models=tuple(sorted(settings.triton.models)),
        sidecar=settings.listen.dialled,
        liveness=health_server.LIVENESS,
        forget_after=settings.service.forget_after,
        capacity=settings.service.capacity,
        zone=settings.service.zone or "",
    )


def current_meta(
    settings: SidecarSettings,
    verdict: Verdict,
    triton_version: str,
    model_set: str,
    gpus: str,
    participant: Participant,
) -> InstanceMeta:
    """The meta of the instance's entry in Consul, as of now; `model_set` is a digest."""
    return InstanceMeta(
        role=_SHOWN_AS.get(participant.role, participant.role).value,
        epoch=participant.election.epoch,
        warning_percent=verdict.weight,
        triton_version=triton_version,
        model_set=model_set,
        gpus=gpus,
        priority=settings.election.priority,
        standby=settings.election.standby if participant.cold else HOT,
        unfit=participant.unfit,
        settled_at=participant.settled_at,
        paused=participant.paused.value,
        differs=participant.differs,
        mode=settings.election.mode,
        hands_over=not verdict.withdrawn,
        drill=",".join(sorted(settings.drill.allow)),
        unusable=tuple((model, reason.value) for model, reason in verdict.unusable),
    )
