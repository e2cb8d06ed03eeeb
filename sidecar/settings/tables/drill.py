"""`[drill]`: what a drill on a live mesh may do to this instance; by default nothing."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from sidecar.injection.rules import Fault, InjectionRules
from sidecar.settings.values import Duration, Table


def _fault(value: object) -> Fault:
    try:
        return Fault(str(value))
    except ValueError:
        raise ValueError(f"expected one of {', '.join(Fault)}") from None


class DrillSettings(Table):
    """The faults that a drill may order of this sidecar, and how long one lasts at most."""

    allow: tuple[Annotated[Fault, BeforeValidator(_fault)], ...] = ()
    max_seconds: Annotated[Duration, Field(ge=1, le=600)] = 60.0

    @property
    def rules(self) -> InjectionRules:
        """The rules for `Injector`."""
        return InjectionRules(frozenset(self.allow), self.max_seconds)
