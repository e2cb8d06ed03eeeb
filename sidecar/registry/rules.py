"""What is set about an instance's withdrawal. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DrainRules:
    """How long a withdrawal waits for what is in flight, and whether it then cuts it; seconds.

    After `timeout` what is left is cut with `cut`. After a verdict of hung all of it is cut once
    `cut_hung_after` has passed, whatever `cut` says.
    """

    timeout: float = 30.0
    cut: bool = False
    cut_hung_after: float | None = None
