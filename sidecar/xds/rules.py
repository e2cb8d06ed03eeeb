"""What is set about the control plane itself; for Envoy: `edge`. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ControlPlaneRules:
    """A control plane: its id, its service, where it listens, and what others dial if not that."""

    instance: str
    name: str
    listen: str
    advertise: str | None = None
