"""Prints the answers of the verbs about control planes as JSON: one object each."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from sidecar.cli.operator.json_output import iso
from sidecar.operator import differences
from sidecar.operator.inspection import Replies
from sidecar.xds.ads.type_names import short


def clients(found: Replies[Any]) -> None:
    """The answer of `xds clients`."""
    _print(
        found,
        lambda response: {
            "clients": list(map(_client, response.clients)),
            "waiting": response.waiting,
        },
    )


def snapshots(found: Replies[Any]) -> None:
    """The answer of `xds snapshot`; with the resources' bodies if they were requested."""
    _print(found, _snapshot)


def explanations(found: Replies[Any], settles: float) -> None:
    """The answer of `xds explain`."""
    _print(
        found,
        lambda response: {"placements": list(map(_placement, response.placements))},
        settling_seconds=settles,
    )


def diff(clients: Replies[Any], snapshots: Replies[Any]) -> None:
    """The answer of `xds diff`."""
    published = {
        reply.plane.id: reply.response for reply in snapshots if reply.response is not None
    }

    def behind(response: Any) -> dict[str, Any]:
        return {
            "unconfirmed": [
                dataclasses.asdict(each) for each in differences.unconfirmed("", response)
            ]
        }

    between = [dataclasses.asdict(each) for each in differences.disagreements(published)]
    _print(clients, behind, disagreements=between)


def _print(found: Replies[Any], render: Callable[[Any], dict[str, Any]], **more: Any) -> None:
    planes = [
        {
            "id": reply.plane.id,
            "address": reply.plane.address,
            **({"why": reply.why} if reply.response is None else render(reply.response)),
        }
        for reply in found
    ]
    print(json.dumps({"done": True, "control_planes": planes, **more}, indent=2))


def _client(client: Any) -> dict[str, Any]:
    return {
        "node": client.node,
        "protocol": client.protocol,
        "connected_seconds": client.connected_seconds,
        "lag_seconds": client.lag_seconds,
        "types": [
            {
                "type": short(state.type_url),
                "accepted_version": state.accepted_version,
                "pending": state.pending,
                "refused": _refused(state),
                "behind": [
                    {
                        "name": each.name,
                        "published_version": each.published_version,
                        "held_version": each.held_version,
                        "standing": each.standing,
                    }
                    for each in state.behind
                ],
            }
            for state in client.types
        ],
    }


def _refused(state: Any) -> dict[str, Any] | None:
    if not state.refused_version:
        return None
    at = iso(state.refused_at)
    return {"version": state.refused_version, "reason": state.refused_reason, "at": at}


def _snapshot(response: Any) -> dict[str, Any]:
    from sidecar.cli.xds.text_output import body

    return {
        "version": response.version or None,
        "age_seconds": response.age_seconds,
        "catalog_status": response.catalog_status,
        "clusters": [
            {"name": cluster.name, "endpoints": list(map(_endpoint, cluster.endpoints))}
            for cluster in response.clusters
        ],
        "resources": [
            {
                "type": short(each.type_url),
                "name": each.name,
                "version": each.version,
                **({"body": body(each)} if each.HasField("body") else {}),
            }
            for each in response.resources
        ],
    }


def _endpoint(endpoint: Any) -> dict[str, Any]:
    return {
        "instance": endpoint.instance,
        "address": endpoint.address,
        "port": endpoint.port,
        "priority": endpoint.priority if endpoint.HasField("priority") else None,
        "weight": endpoint.weight,
        "health": endpoint.health,
        "draining": endpoint.draining,
    }


def _placement(found: Any) -> dict[str, Any]:
    return {
        "service": found.service,
        "cluster": found.cluster,
        "listed": found.listed,
        "priority": found.priority if found.HasField("priority") else None,
        "weight": found.weight if found.listed else None,
        "since": iso(found.since) if found.since else None,
        "why": list(found.why),
    }
