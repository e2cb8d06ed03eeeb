"""What a check in Consul says about an instance, and when it says nothing. Pure."""

import re
from typing import TYPE_CHECKING

from sidecar.health.verdict import UNPROVEN

if TYPE_CHECKING:
    from sidecar.consul_api import Check, ServiceEntry, Status

NODE = "serfHealth"
# Consul's checks for maintenance mode: the sidecar's or the operator's word that no new requests
# are wanted. It says nothing about the work in flight.
_MAINTENANCE = ("_service_maintenance", "_node_maintenance")
# What Consul itself says, before the check's last output, once nobody has renewed a TTL check.
_LAPSED = "TTL expired"
# An agent that was restarted takes up its checks as critical until they have run, with an output
# from before: of its own poll of a sidecar, or the verdict that was pushed last.
_RESTORED = re.compile(r"gRPC check .*: success|(PASSING|WARNING) .*", re.DOTALL)
# The verdict that a TTL check was given last, also where Consul tells first that it lapsed.
_LAST_VERDICT = re.compile(rf"({_LAPSED}[^:]*: )?(?P<state>[A-Z]+) (?P<reason>[A-Z_]+)")


def verdict_check(instance_id: str) -> str:
    """Id of the check that an instance's sidecar pushes."""
    return f"{instance_id}:verdict"


def sidecar_check(instance_id: str) -> str:
    """Id of the check by which Consul polls an instance's sidecar."""
    return f"{instance_id}:sidecar"


def is_maintenance(check: "Check") -> bool:
    """Whether it stands for maintenance mode."""
    return check.id.startswith(_MAINTENANCE)


def is_silence(check: "Check", instance_id: str) -> bool:
    """Whether a critical check means only that an instance's sidecar does not answer.

    What Consul polls asks for the sidecar's life, not for its verdict (docs/decisions/0005).
    """
    return check.id == sidecar_check(instance_id)


def is_unproven(check: "Check") -> bool:
    """Whether a sidecar has only begun to find out whether its Triton is well."""
    said = _LAST_VERDICT.match(check.output)
    return said is not None and UNPROVEN.summary == f"{said['state']} {said['reason']}"


def last_verdict(entry: "ServiceEntry") -> "Status | None":
    """The last word of a sidecar that may not answer any more; None unless it was a good one."""
    for check in entry.checks:
        if check.id == verdict_check(entry.id):
            said = _LAST_VERDICT.match(check.output)
            state = said["state"].lower() if said and check.status == "critical" else check.status
            return "passing" if state == "passing" else "warning" if state == "warning" else None
    return None


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
