"""What an operator consents to before drills on a live mesh begin, in lines.

Acts: through what it imports or is given.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from sidecar.drill.live import scenarios
from sidecar.drill.scenario import Scenario
from sidecar.operator.service_status import ServiceStatus


def terms(
    seen: ServiceStatus, chosen: Sequence[Scenario[Any]], rounds: int, load: str, envoy: str
) -> Iterator[str]:
    """What will be done to which instance of which service, and what will not.

    Args:
        seen: the service at this moment.
        chosen: the scenarios, in order.
        rounds: how often each is run.
        load: the load's text.
        envoy: host:port that the load connects to.
    """
    primary = seen.primary or "no instance"
    yield f"service {seen.service}: {len(seen.candidates)} instances, {primary} is primary"
    impossible = []
    for scenario in chosen:
        if not scenarios.possible(scenario):
            impossible.append(scenario.name)
        elif why := scenarios.refusal(seen, scenario):
            yield f"{scenario.name}: skipped: {why}"
        else:
            often = f", {rounds} times" if rounds > 1 else ""
            yield f"{scenario.name}: {scenario.title}, on the {scenario.victim}{often}"
    if impossible:
        yield f"skipped, because a live mesh does not offer what they need: {', '.join(impossible)}"
    yield f"load, through {envoy}: {load}"
