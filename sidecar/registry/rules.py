"""The rules of an instance's withdrawal, made from settings. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DrainRules:
    """How long a withdrawal waits for requests in flight, and whether it then cuts them; seconds.

    With `cut`, those left after `timeout` are cut. After a verdict of hung, all are cut once
    `cut_hung_after` has passed, whatever `cut` says.
    """

    timeout: float = 30.0
    cut: bool = False
    cut_hung_after: float | None = None
