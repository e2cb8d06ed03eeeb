"""What the verbs about control planes tell people."""

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from google.protobuf.json_format import MessageToJson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sidecar.operator import differences
from sidecar.operator.inspection import Plane, Words
from sidecar.operator.situation import settling
from sidecar.xds.names import short

_DIGITS = 8  # of a version: enough to tell versions apart by eye


def clients(found: Words[Any]) -> None:
    """The answer of `xds clients`."""
    for plane, said in _heard(found):
        waiting = f", {said.waiting} waiting to be taken on" if said.waiting else ""
        count = len(said.clients)
        print(f"{_name(plane)}: {count} Envoy{'s' if count != 1 else ''}{waiting}")
        table = Table("node", "connected", "protocol", "lag", "acknowledged", "state")
        for client in said.clients:
            table.add_row(
                escape(client.node or "-"),
                _span(client.connected_seconds),
                client.protocol,
                _span(client.lag_seconds) if client.lag_seconds else "-",
                "\n".join(_accepted(state) for state in client.types),
                "\n".join(_state(state) for state in client.types),
            )
        if said.clients:
            _print(table)
        for client in said.clients:
            for state in client.types:
                if state.refused_version:
                    what = f"{short(state.type_url)} {_short(state.refused_version)}"
                    told = f"{client.node} refused {what} at {_when(state.refused_at)}"
                    print(f"{told}: {state.refused_reason}")


def snapshots(found: Words[Any]) -> None:
    """The answer of `xds snapshot`."""
    for plane, said in _heard(found):
        if said.catalog_status:
            print(f"{_name(plane)}: {said.catalog_status}")
        if not said.version:
            print(f"{_name(plane)}: nothing is published yet")
            continue
        print(f"{_name(plane)}: version {said.version}, for {_span(said.age_seconds)}")
        table = Table("cluster", "priority", "weight", "instance", "address", "health")
        for cluster in said.clusters:
            for each in cluster.endpoints:
                gets = each.HasField("priority")
                table.add_row(
                    escape(cluster.name),
                    str(each.priority) if gets else "withdrawn",
                    str(each.weight) if gets else "-",
                    escape(each.instance),
                    f"{each.address}:{each.port}",
                    "maintenance" if each.draining else each.health,
                )
        _print(table)


def resources(found: Words[Any]) -> None:
    """The answer of `xds snapshot --yaml`: a document for each control plane."""
    import yaml

    for plane, said in _heard(found):
        by_type: dict[str, dict[str, Any]] = {}
        for each in said.resources:
            by_type.setdefault(short(each.type_url), {})[each.name] = {
                "version": each.version,
                "resource": body(each),
            }
        document = {"control_plane": plane.id, "version": said.version, "resources": by_type}
        print("---")
        print(yaml.safe_dump(document, sort_keys=False), end="")


def explanations(found: Words[Any], settles: float) -> None:
    """The answer of `xds explain`; the instance settles for so many seconds more."""
    for plane, said in _heard(found):
        if not said.placements:
            print(f"{_name(plane)}: does not know it")
        for each in said.placements:
            since = f", since {_when(each.since)}" if each.since else ""
            print(f"{_name(plane)}: {each.cluster}: {_place(each)}{since}")
            for line in each.why:
                print(f"  {line}")
    if settles:
        print(f"{settling(settles)} before it takes the role of primary")


def diff(clients: Words[Any], snapshots: Words[Any]) -> None:
    """The answer of `xds diff`."""
    table = Table("control plane", "node", "type", "resource", "published", "has", "state", "lag")
    behind = [
        each for plane, said in _heard(clients) for each in differences.unconfirmed(plane.id, said)
    ]
    for each in behind:
        state = f"{each.standing}: {each.reason}" if each.reason else each.standing
        cells = (each.plane, each.node, each.type, each.name, _short(each.published))
        table.add_row(*map(escape, cells), _short(each.held) or "-", escape(state), _span(each.lag))
    if behind:
        _print(table)
    else:
        print("every Envoy has acknowledged what its control plane publishes")
    published = {word.plane.id: word.said for word in snapshots if word.said is not None}
    between = list(differences.disagreements(published))
    for each_ in between:
        words = ", ".join(f"{plane}: {word}" for plane, word in each_.says.items())
        print(f"{each_.what}: {words}")
    if len(published) > 1 and not between:
        print(f"the {len(published)} control planes publish the same")


def body(resource: Any) -> Any:
    """A PublishedResource's own message, as nested tables."""
    # Imported for the types of the messages in it.
    from sidecar.xds import snapshot  # noqa: F401

    return json.loads(MessageToJson(resource.body, preserving_proto_field_name=True))


def _heard(found: Words[Any]) -> Iterator[tuple[Plane, Any]]:
    """Those that have answered; of the others it is told why not."""
    for word in found:
        if word.said is None:
            print(f"triton-sidecar: {_name(word.plane)}: {word.why}", file=sys.stderr)
        else:
            yield word.plane, word.said


def _name(plane: Plane) -> str:
    return plane.id if plane.id == plane.address else f"{plane.id} ({plane.address})"


def _accepted(state: Any) -> str:
    return f"{short(state.type_url)} {_short(state.accepted_version) or '-'}"


def _state(state: Any) -> str:
    if state.refused_version:
        return "[red]NACK[/]"
    if state.pending:
        return "[yellow]pending[/]"
    return "[yellow]behind[/]" if state.behind else "[green]ACK[/]"


def _place(placement: Any) -> str:
    if not placement.listed:
        return "not listed"
    return differences.place(placement)


def _short(version: str) -> str:
    return version[:_DIGITS]


def _span(seconds: float) -> str:
    from sidecar.xds.telemetry import shown

    return shown(seconds) if seconds >= 1.0 else f"{seconds * 1000:.0f} ms"


def _when(seconds: float) -> str:
    """Unix seconds in local time, with the zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(seconds))


def _print(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else 160).print(table)
