"""Prints the answers of the verbs about control planes as text."""

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from google.protobuf.json_format import MessageToJson
from rich.text import Text

from sidecar.operator import differences
from sidecar.operator.inspection import PlaneRef, Replies
from sidecar.operator.service_status import settling_text
from sidecar.runtime.terminal import Column, Grid, show
from sidecar.xds.ads.type_names import short

_DIGITS = 8  # of a version: enough to tell versions apart by eye
_CLIENTS = (
    Column("node", shortens=True),
    Column("connected", worth=2),
    Column("protocol", worth=1),
    Column("lag", worth=3),
    Column("resource"),
    Column("acknowledged", worth=4),
    Column("state"),
)
_ENDPOINTS = (
    Column("cluster", worth=3, shortens=True),
    Column("priority"),
    Column("weight", worth=1),
    Column("instance", shortens=True),
    Column("address", worth=2),
    Column("health"),
)
_BEHIND = (
    Column("control plane", worth=3, shortens=True),
    Column("node", shortens=True),
    Column("type", worth=4),
    Column("resource", shortens=True),
    Column("published", worth=2),
    Column("has", worth=1),
    Column("state", worth=6, folds=True),
    Column("lag", worth=5),
)


def clients(found: Replies[Any], wide: bool) -> None:
    """The answer of `xds clients`."""
    for plane, response in _answered(found):
        waiting = f", {response.waiting} waiting for admission" if response.waiting else ""
        count = len(response.clients)
        print(f"{_name(plane)}: {count} Envoy{'s' if count != 1 else ''}{waiting}")
        grid = Grid(_CLIENTS)
        for client in response.clients:
            _add(grid, client)
        if grid.rows:
            show(grid, wide)
        for client in response.clients:
            for state in client.types:
                if state.refused_version:
                    what = f"{short(state.type_url)} {_short(state.refused_version)}"
                    rejection = f"{client.node} refused {what} at {_when(state.refused_at)}"
                    print(f"{rejection}: {state.refused_reason}")


def snapshots(found: Replies[Any], wide: bool) -> None:
    """The answer of `xds snapshot`."""
    for plane, response in _answered(found):
        if response.catalog_status:
            print(f"{_name(plane)}: {response.catalog_status}")
        if not response.version:
            print(f"{_name(plane)}: nothing is published yet")
            continue
        print(f"{_name(plane)}: version {response.version}, for {_span(response.age_seconds)}")
        grid = Grid(_ENDPOINTS)
        for cluster in response.clusters:
            for each in cluster.endpoints:
                gets = each.HasField("priority")
                grid.add(
                    cluster.name,
                    str(each.priority) if gets else "withdrawn",
                    str(each.weight) if gets else "-",
                    each.instance,
                    f"{each.address}:{each.port}",
                    "maintenance" if each.draining else each.health,
                )
        if grid.rows:
            show(grid, wide)


def resources(found: Replies[Any]) -> None:
    """The answer of `xds snapshot --yaml`: a document for each control plane."""
    import yaml

    for plane, response in _answered(found):
        by_type: dict[str, dict[str, Any]] = {}
        for each in response.resources:
            by_type.setdefault(short(each.type_url), {})[each.name] = {
                "version": each.version,
                "resource": body(each),
            }
        document = {"control_plane": plane.id, "version": response.version, "resources": by_type}
        print("---")
        print(yaml.safe_dump(document, sort_keys=False), end="")


def explanations(found: Replies[Any], settles: float) -> None:
    """The answer of `xds explain`; the instance must settle for `settles` more seconds."""
    for plane, response in _answered(found):
        if not response.placements:
            print(f"{_name(plane)}: does not know the instance")
        for each in response.placements:
            since = f", since {_when(each.since)}" if each.since else ""
            print(f"{_name(plane)}: {each.cluster}: {_place(each)}{since}")
            for line in each.why:
                print(f"  {line}")
    if settles:
        print(f"{settling_text(settles)} before it takes the role of primary")


def diff(clients: Replies[Any], snapshots: Replies[Any], wide: bool) -> None:
    """The answer of `xds diff`."""
    grid = Grid(_BEHIND)
    behind = [
        each
        for plane, response in _answered(clients)
        for each in differences.unconfirmed(plane.id, response)
    ]
    for each in behind:
        state = f"{each.standing}: {each.reason}" if each.reason else each.standing
        cells = (each.plane, each.node, each.type, each.name, _short(each.published))
        grid.add(*cells, _short(each.held) or "-", state, _span(each.lag))
    if behind:
        show(grid, wide)
    else:
        print("every Envoy has acknowledged what its control plane publishes")
    published = {
        reply.plane.id: reply.response for reply in snapshots if reply.response is not None
    }
    between = list(differences.disagreements(published))
    for each_ in between:
        values = ", ".join(f"{plane}: {value}" for plane, value in each_.says.items())
        print(f"{each_.what}: {values}")
    if len(published) > 1 and not between:
        print(f"the {len(published)} control planes publish the same")


def body(resource: Any) -> Any:
    """The message in a PublishedResource, as nested tables."""
    # Imported because it registers the types of the messages.
    from sidecar.xds.config import snapshot  # noqa: F401

    return json.loads(MessageToJson(resource.body, preserving_proto_field_name=True))


def _answered(found: Replies[Any]) -> Iterator[tuple[PlaneRef, Any]]:
    """The control planes that answered; for the others, standard error says why not."""
    for reply in found:
        if reply.response is None:
            print(f"triton-sidecar: {_name(reply.plane)}: {reply.why}", file=sys.stderr)
        else:
            yield reply.plane, reply.response


def _name(plane: PlaneRef) -> str:
    return plane.id if plane.id == plane.address else f"{plane.id} ({plane.address})"


def _add(grid: Grid, client: Any) -> None:
    """Add a row for each type, so that its state is next to it at any width."""
    lag = _span(client.lag_seconds) if client.lag_seconds else "-"
    about = [_span(client.connected_seconds), client.protocol, lag]
    node = client.node or "-"
    for state in client.types:
        version = _short(state.accepted_version) or "-"
        grid.add(node, *about, short(state.type_url), version, _state(state))
        about = [""] * len(about)  # only in the first row
    if not client.types:
        grid.add(node, *about, "-", "-", "subscribes to nothing")


def _state(state: Any) -> Text:
    if state.refused_version:
        return Text("NACK", "red")
    if state.pending:
        return Text("pending", "yellow")
    return Text("behind", "yellow") if state.behind else Text("ACK", "green")


def _place(placement: Any) -> str:
    if not placement.listed:
        return "not listed"
    return differences.place(placement)


def _short(version: str) -> str:
    return version[:_DIGITS]


def _span(seconds: float) -> str:
    from sidecar.xds.observer import rounded

    return rounded(seconds) if seconds >= 1.0 else f"{seconds * 1000:.0f} ms"


def _when(seconds: float) -> str:
    """Unix seconds in local time, with the zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(seconds))
