"""When a drill must not begin, or has to stop and remove its fault. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sidecar.drill.samples import Sample


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a running drill may not exceed.

    Attributes:
        error_rate: the share of requests that may fail within the window.
        window: seconds that are looked back on.
        least: requests within the window, below which their share says nothing.
        longest: seconds that a run may take from the injection on.
    """

    error_rate: float = 0.5
    window: float = 5.0
    least: int = 20
    longest: float = 300.0


@dataclass(frozen=True, slots=True)
class Stop:
    """Why a drill stops; `code` is for programs.

    It is `error_rate`, `no_answers`, `no_healthy_instance`, `time_over`, `load_failed`,
    `injection_failed`, `removal_failed`, `not_measured` (what follows the fault failed), or, on a
    live mesh, that of a refusal.
    """

    code: str
    reason: str


def before_injection(victim: str, healthy: Collection[str]) -> Stop | None:
    """Whether the fault may not be injected.

    Args:
        victim: the instance that gets it, or empty if it is the mesh's.
        healthy: the instances that receive traffic now.
    """
    if set(healthy) - {victim}:
        return None
    other = f"other than {victim}" if victim else "at all"
    return Stop("no_healthy_instance", f"expected a healthy instance {other}, found none")


def while_running(
    samples: Sequence[Sample], now: float, injected: float, bounds: Bounds, in_flight: int = 0
) -> Stop | None:
    """Whether a running drill has to stop.

    Args:
        samples: those so far, roughly in the order in which requests ended.
        now: the time on the clock of the samples.
        injected: when the fault was injected; what ended before does not count.
        bounds: what may not be exceeded.
        in_flight: requests that were sent, and are not answered.
    """
    since = max(injected, now - bounds.window)
    recent = _ended_since(samples, since)
    failed = sum(sample.outcome == "failed" for sample in recent)
    if len(recent) >= bounds.least and failed > bounds.error_rate * len(recent):
        share = f"{failed} of {len(recent)} requests failed in {now - since:.1f} s"
        return Stop("error_rate", f"{share}, expected at most {100 * bounds.error_rate:g} %")
    if not recent and in_flight and since > injected:
        wait = f"no request ended in {bounds.window:g} s"
        return Stop("no_answers", f"{wait}, while {in_flight} are in flight")
    if now - injected > bounds.longest:
        return Stop("time_over", f"the run takes longer than {bounds.longest:g} s")
    return None


def _ended_since(samples: Sequence[Sample], since: float) -> list[Sample]:
    """The newest samples, from the end; a process reports them every 0.1 s, nearly in order."""
    found: list[Sample] = []
    for sample in reversed(samples):
        if sample.ended < since - 1.0:
            break
        if sample.ended >= since:
            found.append(sample)
    return found
