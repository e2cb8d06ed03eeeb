"""What a soak has switched on beyond the defaults.

docs/drills.md lists it, and what is left out and why.

Acts: through what it imports or is given.
"""

from collections.abc import Mapping
from typing import Any, Final

from sidecar.drill.cluster.layout import Overrides, merged

_ZONE: Final = "zone-a"
_CAPACITY: Final = 400  # requests in flight; the load's pile up for seconds in a hung Triton


def settings(notify: Mapping[str, object]) -> Overrides:
    """The settings of the cluster's sidecars and of its control plane.

    Args:
        notify: the receivers of notifications, by name.
    """
    sidecars: dict[str, Mapping[str, object]] = {
        "service": {"zone": _ZONE, "capacity": _CAPACITY},
        "drain": {"cut": True, "cut_hung_after": "1s"},
        "drill": {"allow": ["crash", "freeze", "stubs-killed", "stubs-frozen"]},
        "hooks": {"on_role_change": ["true"], "on_verdict_change": ["true"], "on_drill": ["true"]},
        "notify": notify,
        "recovery": {"load": True},
    }
    return Overrides(sidecars, {"xds": {"zone": _ZONE}})


# Common to all policies. The load has no sequences, but each of its requests passes the filter.
_POLICY: Final[Mapping[str, Any]] = {
    "affinity": {"sequence_header": "x-sequence"},
    "locality": {"prefer_zone": True},
    "limits": {"max_stream_duration": "600s", "stream_idle_timeout": "300s"},
}


def _policy(**changed: Mapping[str, object]) -> Mapping[str, Any]:
    return merged(_POLICY, changed)


# The documents that a soak sets in turn. All have a primary, as the scenarios expect. The second
# and the third change how Envoy's cluster is configured, so that it is replaced under load; the
# last one has a release, whose instances do not exist yet.
POLICIES: Final = (
    _policy(),
    _policy(connection={"keepalive_timeout": "0.75s"}, retry={"max_interval": "0.2s"}),
    _policy(limits={"slow_start": "5s"}, outlier_detection={"base_ejection_time": "3s"}),
    _policy(
        release={
            "tag": "next",
            "percent": 10,
            "sticky_header": "x-user",
            "guard": {"max_error_percent": 50.0},
        }
    ),
)
