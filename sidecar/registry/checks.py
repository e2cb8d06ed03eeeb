"""What a check in Consul says about an instance, and when it is inconclusive. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from sidecar.registry import consul_output
from sidecar.verdict import verdict_line
from sidecar.verdict.verdict import SERVING, UNPROVEN
from sidecar.verdict.verdict_line import ParsedLine

if TYPE_CHECKING:
    from sidecar.consul.api import Check, ServiceEntry, Status

NODE = "serfHealth"
# Consul's checks for maintenance mode: the sidecar or an operator wants no new requests for the
# instance. They say nothing about requests in flight.
SERVICE_MAINTENANCE = "_service_maintenance:"
_MAINTENANCE = (SERVICE_MAINTENANCE, "_node_maintenance")
# The reason that a sidecar gives for its own maintenance mode, and the key in the entry's meta that
# names it: readers compare the two, whatever the text. Earlier versions write no key and expect
# this very text, so it stays while they may run alongside (docs/decisions/0064).
WITHDRAWN = EARLIER_WITHDRAWN = "stopping in order"
WITHDRAWAL_META = "withdrawal_reason"


def verdict_check(instance_id: str) -> str:
    """Id of the check that an instance's sidecar pushes."""
    return f"{instance_id}:verdict"


def sidecar_check(instance_id: str) -> str:
    """Id of the check with which Consul polls an instance's sidecar."""
    return f"{instance_id}:sidecar"


def is_maintenance(check: "Check") -> bool:
    """Whether it is a check of maintenance mode."""
    return check.id.startswith(_MAINTENANCE)


def is_sidecar_silent(check: "Check", instance_id: str) -> bool:
    """Whether a critical check means only that an instance's sidecar does not answer.

    Consul polls for the sidecar's liveness, not for its verdict (docs/decisions/0005).
    """
    return check.id == sidecar_check(instance_id)


def pushed_line(check: "Check") -> ParsedLine | None:
    """The verdict line that a sidecar pushed; None for another check, or one that has lapsed."""
    pushed = check.id == verdict_check(check.service_id)
    return verdict_line.parse(consul_output.uncut(check.output)) if pushed else None


def last_pushed_line(check: "Check") -> ParsedLine | None:
    """The same, also once the check has lapsed."""
    return pushed_line(replace(check, output=consul_output.before_lapse(check.output)))


def is_unproven(check: "Check") -> bool:
    """Whether a sidecar has only begun to probe its Triton."""
    line = last_pushed_line(check)
    return line is not None and (line.state, line.reason) == (UNPROVEN.state, UNPROVEN.reason)


def last_verdict(entry: "ServiceEntry") -> "Status | None":
    """The last status that a sidecar pushed, which may be gone; None unless it was a good one."""
    for check in entry.checks:
        if check.id == verdict_check(entry.id):
            line = last_pushed_line(check)
            state = str(line.state) if line and check.status == "critical" else check.status
            return "passing" if state == "passing" else "warning" if state == "warning" else None
    return None


def is_inconclusive(check: "Check") -> bool:
    """Whether a critical check proves nothing about the instance.

    `serfHealth` is about the node's agent: one that crashed or is cut off takes no Triton with it.
    A check that has never run is registered as critical, without output; a check of maintenance
    mode has no output either, but counts. A lapsed verdict was not received, and an agent that was
    suspended receives none from any instance: the other check, and Envoy's own, show whether the
    sidecar is alive. A critical check whose output is a success has not run since the agent
    restarted, which affects all instances of a node at once.
    """
    if check.id == NODE or consul_output.has_lapsed(check.output):
        return True
    return _has_not_run(check) or not (check.output or is_maintenance(check))


def first_line(check: "Check") -> str:
    """The text that people see of a check that does not pass; "" if it has not run (again) yet.

    For maintenance mode it is the reason, which Consul keeps in the notes. The notes of any other
    check describe the check, not its result.
    """
    if is_maintenance(check):
        return check.notes or check.name
    return "" if _has_not_run(check) else check.output.strip().partition("\n")[0]


def _has_not_run(check: "Check") -> bool:
    """Whether a critical check still shows a success, from before its agent restarted."""
    if check.status != "critical":
        return False
    pushed = pushed_line(check)
    was_good = pushed is not None and pushed.state in SERVING
    return was_good or consul_output.polled_well(check.output)


def own_checks(instance: str) -> tuple[str, str]:
    """The ids of an instance's own checks: the pushed verdict, and the poll of the sidecar."""
    return verdict_check(instance), sidecar_check(instance)


def objection(found: "Iterable[Check]", instance: str, meta: Mapping[str, str]) -> str | None:
    """Why others want an instance out of service, or None.

    That is maintenance mode of the instance or its node, or any other conclusive critical check of
    either that is not its sidecar's own: Consul's clients leave such an instance out.

    Args:
        found: the checks of the instance and its node; those of other instances are ignored.
        instance: the instance's id.
        meta: the meta of its entry.
    """

    def objects(check: "Check") -> bool:
        concerns = check.service_id in ("", instance) and check.id not in own_checks(instance)
        spoken = not (is_inconclusive(check) or is_withdrawal(check, meta))
        return concerns and check.status == "critical" and spoken

    # Maintenance mode first; of several, always the same one whatever their order.
    against = sorted(
        filter(objects, found), key=lambda check: (not is_maintenance(check), check.id)
    )
    return next(map(_reason, against), None)


def is_withdrawal(check: "Check", meta: Mapping[str, str]) -> bool:
    """Whether it is the maintenance mode with which a sidecar withdraws its own instance.

    `meta` is that of the instance's entry, in which the sidecar names its reason.
    """
    named = meta.get(WITHDRAWAL_META, EARLIER_WITHDRAWN)
    return check.id.startswith(SERVICE_MAINTENANCE) and check.notes == named


def _reason(check: "Check") -> str:
    line = first_line(check)
    if is_maintenance(check):
        return line
    return f"{check.name}: {line}" if line else f"{check.name} is critical"
