"""What a check in Consul says about an instance, and when it says nothing. Pure."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from sidecar.health.verdict import UNPROVEN

if TYPE_CHECKING:
    from sidecar.consul_api import Check, ServiceEntry, Status

NODE = "serfHealth"
# Consul's checks for maintenance mode: the sidecar's or the operator's word that no new requests
# are wanted. It says nothing about the work in flight.
SERVICE_MAINTENANCE = "_service_maintenance:"
_MAINTENANCE = (SERVICE_MAINTENANCE, "_node_maintenance")
# Why an instance that stops in order is in maintenance mode.
WITHDRAWN = "stopping in order"
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


def own_checks(instance: str) -> tuple[str, str]:
    """The ids of an instance's own checks: the verdict that its sidecar pushes, and the poll."""
    return verdict_check(instance), sidecar_check(instance)


def objection(found: "Iterable[Check]", instance: str) -> str | None:
    """Why somebody else wants an instance out of service, or None.

    That is maintenance mode, of the instance or of its node, and any other critical check of either
    that says something, and that its own sidecar does not answer for: whoever asks Consul leaves
    such an instance out.

    Args:
        found: its checks and those of its node; those of others on the node are left alone.
        instance: its id.
    """

    def objects(check: "Check") -> bool:
        concerns = check.service_id in ("", instance) and check.id not in own_checks(instance)
        spoken = not (says_nothing(check) or is_withdrawal(check))
        return concerns and check.status == "critical" and spoken

    # Maintenance mode first, and the same one of several whatever their order.
    against = sorted(
        filter(objects, found), key=lambda check: (not is_maintenance(check), check.id)
    )
    return next(map(_reason, against), None)


def is_withdrawal(check: "Check") -> bool:
    """Whether it is the maintenance mode by which a sidecar withdraws its instance."""
    return check.id.startswith(SERVICE_MAINTENANCE) and check.notes == WITHDRAWN


def _reason(check: "Check") -> str:
    if is_maintenance(check):
        return check.notes or check.name
    said = check.output.strip().partition("\n")[0]
    return f"{check.name}: {said}" if said else f"{check.name} is critical"
