"""The results of the control plane's benchmark, and their output."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks import report, xds_peer
from benchmarks.report import ms, quantile

_COLUMNS = 40  # of the plot


@dataclass
class Found:
    """The results at one number of instances, in seconds and bytes."""

    instances: int
    median: list[float] = field(default_factory=list)  # until the median client's ACK
    last: list[float] = field(default_factory=list)  # until the last client's ACK
    whole: list[float] = field(default_factory=list)  # the same, Envoy included
    cpu: float = 0.0  # of the control plane, per change
    consul_cpu: float = 0.0
    resident: int = 0
    cut: float = 0.0  # until all have reconnected after losing their connections
    restarted: float = 0.0  # … after the control plane was restarted
    listened: float = 0.0  # … after the new one listened
    rest_requests: float = 0.0  # per second
    rest_bytes: float = 0.0
    rest_cpu: float = 0.0  # share of a core
    change_requests: float = 0.0
    change_bytes: float = 0.0  # as Consul sent them
    document: int = 0  # Consul's answer, uncompressed
    pushed: float = 0.0  # bytes to one client


_FIGURES: tuple[tuple[str, Callable[[Found], str]], ...] = (
    ("last ACK, p50", lambda each: ms(quantile(each.last, 0.5))),
    ("last ACK, p99", lambda each: ms(quantile(each.last, 0.99))),
    ("changes", lambda each: str(len(each.last))),
    ("CPU of the control plane, per change", lambda each: ms(each.cpu)),
    ("CPU of Consul, per change", lambda each: ms(each.consul_cpu)),
    ("baseline: Consul sends per change", lambda each: _kb(each.change_bytes)),
    ("  that is, before compression", lambda each: _kb(each.document)),
    ("pushed per change, to each client", lambda each: _kb(each.pushed)),
    ("requests to Consul per change", lambda each: f"{each.change_requests:.1f}"),
    ("resident memory", lambda each: f"{each.resident / 1e6:.0f} MB"),
    ("all back after a cut", lambda each: ms(each.cut, 0)),
    ("all back after a restart's exec", lambda each: ms(each.restarted, 0)),
    ("  counted from when it listens", lambda each: ms(each.listened, 0)),
    ("at rest: CPU", lambda each: f"{each.rest_cpu:.1%}"),
    ("at rest: requests to Consul", lambda each: f"{each.rest_requests:.2f}/s"),
    ("at rest: from Consul", lambda each: f"{_kb(each.rest_bytes)}/s"),
)


def show(
    found: Sequence[Found],
    main: Found,
    answered: Sequence[float],
    peer_samples: Sequence[float],
    count: int,
) -> None:
    """Print all results."""
    report.table(
        f"{main.instances} instances, {count} ADS clients and one Envoy: from a verdict until …",
        ("", "changes", "p50", "p90", "p99", "slowest"),
        _row("baseline: a watcher has Consul's answer", answered),
        _row("the median client has confirmed it", main.median),
        _row("the last client has confirmed it", main.last),
        _row("… and Envoy counts the update", main.whole),
        _row("peer: Envoy has it by Consul's DNS", peer_samples),
        note=f"The peer asks each {xds_peer.REFRESH:g} s, and learns addresses only. By the median "
        f"it takes {quantile(peer_samples, 0.5) / quantile(main.last, 0.5):.1f} times as long as "
        f"the last of {count} clients.",
    )
    report.table(
        "Growth with the number of instances",
        ("", *(str(each.instances) for each in found)),
        *((name, *map(shown, found)) for name, shown in _FIGURES),
    )
    _plot(found)


def _row(name: str, samples: Sequence[float]) -> tuple[str, ...]:
    shares = (quantile(samples, share) for share in (0.5, 0.9, 0.99))
    return name, str(len(samples)), *map(ms, shares), ms(max(samples, default=math.nan))


def _kb(size: float) -> str:
    return f"{size / 1000:.1f} kB"


def _plot(found: Sequence[Found]) -> None:
    """Each figure as a multiple of its value with the fewest instances, on a logarithmic scale."""
    figures = (
        ("last ACK, p50", [quantile(each.last, 0.5) for each in found]),
        ("CPU per change", [each.cpu for each in found]),
        ("pushed per change", [each.pushed for each in found]),
        ("Consul sends", [each.change_bytes for each in found]),
        ("… uncompressed", [float(each.document) for each in found]),
        ("instances", [float(each.instances) for each in found]),
    )
    most = max(value / values[0] for _, values in figures for value in values if values[0] > 0)
    print("Multiples of the value at the fewest instances (logarithmic)\n")
    for name, values in figures:
        for each, value in zip(found, values, strict=True):
            times = value / values[0] if values[0] > 0 else math.nan
            share = math.log(max(times, 1)) / math.log(max(most, 2)) if times == times else 0
            bar = "█" * (1 + round(share * _COLUMNS))
            print(f"{name:>18} {each.instances:>5} {bar} {times:.1f}")
            name = ""
    print(f"\n{_NOTE}\n")


_NOTE = """\
What grows with the number of instances. Consul answers a watch of a service with the whole list,
whatever has changed; the control plane cuts it into entries, finds those that say what they said
before by their text, and reads the others. (From an agent on another machine it comes compressed.)
Envoy is told a cluster's endpoints as one resource, so each client gets all of them with every
change. What would lift it: changes alone instead of lists. Consul's streaming backend (1.10 and
later) sends an agent only what has changed, but an agent's HTTP answer is still the whole list: it
takes a subscription to Consul's own gRPC stream. On Envoy's side that is LEDS, endpoints as
resources of their own. What does not grow with instances grows with clients: a push and an ACK
each, through gRPC in Python."""
