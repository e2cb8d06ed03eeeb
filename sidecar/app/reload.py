"""A reload: which settings may change while the sidecar runs, and what is built from them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sidecar.app.instance import describe
from sidecar.health.canary.definition import Canary
from sidecar.recovery import actions
from sidecar.registry.registration import InstanceInfo
from sidecar.runtime.errors import ConfigError
from sidecar.runtime.threads import in_daemon_thread
from sidecar.settings import SidecarSettings, changes
from sidecar.settings.canaries import build_all

# Settings that a reload applies while the sidecar runs,
_RELOADABLE = (
    *("health.", "canary.", "drain.", "gpu.", "recovery.", "triton.canaries"),
    *("service.tags", "service.weight", "service.meta", "service.capacity", "service.zone"),
    *("election.", "models."),
)
# apart from these.
_FIXED = frozenset(
    {
        *("health.max_answer", "gpu.enabled", "gpu.devices", "election.mode", "election.standby"),
        *("election.session_ttl", "election.lock_delay", "election.promotion_timeout"),
        *("election.promotion_pause", "election.warm_up", "election.unload"),
    }
)


@dataclass(frozen=True, slots=True)
class NewSettings:
    """Settings that can be applied, what was built from them, and the keys that changed."""

    settings: SidecarSettings
    instance: InstanceInfo
    canaries: list[Canary]
    restart: actions.Action | None
    changed: frozenset[str]


async def prepare(load: Callable[[], SidecarSettings], current: SidecarSettings) -> NewSettings:
    """Load settings and build what they describe; the disk is read in a separate thread.

    Raises:
        ConfigError: the settings are wrong, or one that changed needs a restart.
    """
    settings = await in_daemon_thread(load, "settings")
    changed = changes(current, settings)
    fixed = sorted(key for key in changed if not key.startswith(_RELOADABLE) or key in _FIXED)
    if fixed:
        raise ConfigError(f"{', '.join(fixed)}: cannot change without a restart")
    canaries = await in_daemon_thread(partial(build_all, settings), "canaries")
    restart = None
    if action := settings.recovery.action:
        building = partial(actions.build, action.restart, settings.triton.grpc)
        restart = await in_daemon_thread(building, "recovery action")
    return NewSettings(settings, describe(settings), canaries, restart, frozenset(changed))
