"""How a Triton is probed, and what decides the verdict."""

from pydantic import Field

from sidecar.settings.values import Duration, Table


class HealthSettings(Table):
    """How often to probe, how long to wait, and how many rounds decide."""

    interval: Duration = 1.0
    # Between rounds while they disagree with the verdict: settles it soon, in either direction.
    fast_interval: Duration = 0.1
    rise: int = Field(default=2, ge=1)
    fall: int = Field(default=2, ge=1)
    grace: Duration = 60.0
    port_timeout: Duration = 0.5
    server_timeout: Duration = 1.0
    model_timeout: Duration = 1.0
