"""What a drill and the process of its load tell each other, as lines of JSON.

The drill sends one order, and closes the pipe when the load is to end. The process sends reports:
the first when its clients are ready, the last with `ended` when no request is in flight. Canaries
travel pickled: only this drill's own process reads them.
"""

import base64
import dataclasses
import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass

from sidecar.drill.samples import Sample
from sidecar.health.canary.definition import Canary

_FIELDS = tuple(each.name for each in dataclasses.fields(Sample))


@dataclass(slots=True)
class Counts:
    """What a load has sent so far.

    Attributes:
        in_flight: requests that were sent, and are not answered; without those that are held.
        most_in_flight: the most at once.
        held: requests of an open loop that were not sent when due, because `in_flight` was at its
            bound.
        lag: the longest time in seconds between when a request was due and when the schedule
            started it: how late this process was itself.
    """

    in_flight: int = 0
    most_in_flight: int = 0
    held: int = 0
    lag: float = 0.0


@dataclass(frozen=True, slots=True)
class Order:
    """What the process is to do. `spec` is a load's text.

    Without `canaries` it asks the demo models, and if `cached`, also the one whose answers Triton
    caches, which say nothing about the mesh's speed. `began` is on the monotonic clock, which all
    processes of a machine share.
    """

    spec: str
    address: str
    reference: str
    began: float
    seed: int
    canaries: tuple[Canary, ...] = ()
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What has happened since the report before. `error` is why there will be no load.

    `mistaken` is whether the operator has to change something about it.
    """

    samples: Sequence[Sample] = ()
    counts: Counts = dataclasses.field(default_factory=Counts)
    ended: bool = False
    error: str = ""
    mistaken: bool = False


def order_line(order: Order) -> bytes:
    """An order as a line."""
    document = {each.name: getattr(order, each.name) for each in dataclasses.fields(order)}
    document["canaries"] = base64.b64encode(pickle.dumps(order.canaries)).decode()
    return json.dumps(document).encode() + b"\n"


def read_order(line: bytes) -> Order:
    """The order in a line that `order_line` made."""
    document = json.loads(line)
    canaries = pickle.loads(base64.b64decode(document["canaries"]))  # noqa: S301
    return Order(**{**document, "canaries": canaries})


def report_line(report: Report) -> bytes:
    """A report as a line."""
    rows = [[getattr(sample, name) for name in _FIELDS] for sample in report.samples]
    document = {
        "samples": rows,
        "counts": dataclasses.asdict(report.counts),
        "ended": report.ended,
        "error": report.error,
        "mistaken": report.mistaken,
    }
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def read_report(line: bytes) -> Report:
    """The report in a line that `report_line` made.

    Raises:
        ValueError: it is not one, as when the process died while it was writing.
    """
    document = json.loads(line)
    samples = [Sample(*row) for row in document["samples"]]
    return Report(**{**document, "samples": samples, "counts": Counts(**document["counts"])})
