"""What a check in Consul says about an instance, and when it says nothing. Pure."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.consul_api import Check

NODE = "serfHealth"
# Consul's checks for maintenance mode: the sidecar's or the operator's word that no new requests
# are wanted. It says nothing about the work in flight.
_MAINTENANCE = ("_service_maintenance", "_node_maintenance")
# What Consul itself says, before the check's last output, once nobody has renewed a TTL check.
_LAPSED = "TTL expired"
# An agent that was restarted takes up its checks as critical until they have run, with an output
# from before: of its own poll of a sidecar, or the verdict that was pushed last.
_RESTORED = re.compile(r"gRPC check .*: success|(PASSING|WARNING) .*", re.DOTALL)


def is_maintenance(check: "Check") -> bool:
    """Whether it stands for maintenance mode."""
    return check.id.startswith(_MAINTENANCE)


def says_nothing(check: "Check") -> bool:
    """Whether a critical check is about something else than the instance.

    `serfHealth` is Consul's opinion of the node's agent: one that crashed or is cut off takes no
    Triton with it. A check that has never run is registered as critical, without output; one that
    stands for maintenance mode has none either, but means what it says. A verdict that lapsed was
    not heard, and an agent that paused for long hears none of any instance: the other check, and
    Envoy's own, tell whether the sidecar is there. One whose output speaks of success has not run
    since the agent was restarted, which happens to all instances of a node at once.
    """
    if check.id == NODE or check.output.startswith(_LAPSED):
        return True
    if _RESTORED.fullmatch(check.output):
        return True
    return not (check.output or is_maintenance(check))
