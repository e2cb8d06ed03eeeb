"""What a check in Consul says about an instance, and when it says nothing. Pure."""

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
# Consul's checks for maintenance mode: the sidecar's or the operator's word that no new requests
# are wanted. It says nothing about the work in flight.
SERVICE_MAINTENANCE = "_service_maintenance:"
_MAINTENANCE = (SERVICE_MAINTENANCE, "_node_maintenance")
# The reason by which a sidecar puts its own instance into maintenance mode, and what in the entry's
# meta names it: readers compare the two, and know no words. Earlier versions name nothing, and know
# these very words: they stay for as long as such may run beside (docs/decisions/0064).
WITHDRAWN = EARLIER_WITHDRAWN = "stopping in order"
WITHDRAWAL_META = "withdrawal_reason"


def verdict_check(instance_id: str) -> str:
    """Id of the check that an instance's sidecar pushes."""
    return f"{instance_id}:verdict"


def sidecar_check(instance_id: str) -> str:
    """Id of the check by which Consul polls an instance's sidecar."""
    return f"{instance_id}:sidecar"


def is_maintenance(check: "Check") -> bool:
    """Whether it stands for maintenance mode."""
    return check.id.startswith(_MAINTENANCE)


def is_sidecar_silent(check: "Check", instance_id: str) -> bool:
    """Whether a critical check means only that an instance's sidecar does not answer.

    What Consul polls asks for the sidecar's life, not for its verdict (docs/decisions/0005).
    """
    return check.id == sidecar_check(instance_id)


def pushed_line(check: "Check") -> ParsedLine | None:
    """What an instance's sidecar has pushed, if a check shows that and has not lapsed."""
    pushed = check.id == verdict_check(check.service_id)
    return verdict_line.parse(consul_output.uncut(check.output)) if pushed else None


def last_pushed_line(check: "Check") -> ParsedLine | None:
    """The same, also once the check has lapsed."""
    return pushed_line(replace(check, output=consul_output.before_lapse(check.output)))


def is_unproven(check: "Check") -> bool:
    """Whether a sidecar has only begun to find out whether its Triton is well."""
    said = last_pushed_line(check)
    return said is not None and (said.state, said.reason) == (UNPROVEN.state, UNPROVEN.reason)


def last_verdict(entry: "ServiceEntry") -> "Status | None":
    """The last word of a sidecar that may not answer any more; None unless it was a good one."""
    for check in entry.checks:
        if check.id == verdict_check(entry.id):
            said = last_pushed_line(check)
            state = str(said.state) if said and check.status == "critical" else check.status
            return "passing" if state == "passing" else "warning" if state == "warning" else None
    return None


def is_inconclusive(check: "Check") -> bool:
    """Whether a critical check is about something else than the instance.

    `serfHealth` is Consul's opinion of the node's agent: one that crashed or is cut off takes no
    Triton with it. A check that has never run is registered as critical, without output; one that
    stands for maintenance mode has none either, but means what it says. A verdict that lapsed was
    not heard, and an agent that paused for long hears none of any instance: the other check, and
    Envoy's own, tell whether the sidecar is there. One whose output speaks of success has not run
    since the agent was restarted, which happens to all instances of a node at once.
    """
    if check.id == NODE or consul_output.has_lapsed(check.output):
        return True
    return _has_not_run(check) or not (check.output or is_maintenance(check))


def first_line(check: "Check") -> str:
    """What people are told by a check that does not pass; empty if it has not run (again) yet.

    Of maintenance mode that is its reason, which Consul keeps in the notes. Those of any other
    check say what it is for, and not how it is.
    """
    if is_maintenance(check):
        return check.notes or check.name
    return "" if _has_not_run(check) else check.output.strip().partition("\n")[0]


def _has_not_run(check: "Check") -> bool:
    """Whether one that is critical speaks of success, as before its agent was restarted."""
    if check.status != "critical":
        return False
    pushed = pushed_line(check)
    was_good = pushed is not None and pushed.state in SERVING
    return was_good or consul_output.polled_well(check.output)


def own_checks(instance: str) -> tuple[str, str]:
    """The ids of an instance's own checks: the verdict that its sidecar pushes, and the poll."""
    return verdict_check(instance), sidecar_check(instance)


def objection(found: "Iterable[Check]", instance: str, meta: Mapping[str, str]) -> str | None:
    """Why somebody else wants an instance out of service, or None.

    That is maintenance mode, of the instance or of its node, and any other critical check of either
    that says something, and that its own sidecar does not answer for: clients of Consul leave
    such an instance out.

    Args:
        found: its checks and those of its node; those of others on the node are left alone.
        instance: its id.
        meta: that of its entry.
    """

    def objects(check: "Check") -> bool:
        concerns = check.service_id in ("", instance) and check.id not in own_checks(instance)
        spoken = not (is_inconclusive(check) or is_withdrawal(check, meta))
        return concerns and check.status == "critical" and spoken

    # Maintenance mode first, and the same one of several whatever their order.
    against = sorted(
        filter(objects, found), key=lambda check: (not is_maintenance(check), check.id)
    )
    return next(map(_reason, against), None)


def is_withdrawal(check: "Check", meta: Mapping[str, str]) -> bool:
    """Whether it is the maintenance mode by which a sidecar withdraws its instance.

    `meta` is that of the instance's entry, in which the sidecar has named the reason that it gives.
    """
    named = meta.get(WITHDRAWAL_META, EARLIER_WITHDRAWN)
    return check.id.startswith(SERVICE_MAINTENANCE) and check.notes == named


def _reason(check: "Check") -> str:
    said = first_line(check)
    if is_maintenance(check):
        return said
    return f"{check.name}: {said}" if said else f"{check.name} is critical"
