"""The settings of the control plane itself; those of Envoy's own side are in `edge`. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ControlPlaneRules:
    """A control plane's id, service name, listen address, and advertised address, if different."""

    instance: str
    name: str
    listen: str
    advertise: str | None = None
