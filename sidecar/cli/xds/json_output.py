"""What the verbs about control planes tell programs: one object each, whatever happens."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from sidecar.cli.operator.json_output import iso
from sidecar.operator import differences
from sidecar.operator.inspection import Words
from sidecar.xds.ads.type_names import short


def clients(found: Words[Any]) -> None:
    """The answer of `xds clients`."""
    _print(
        found, lambda said: {"clients": list(map(_client, said.clients)), "waiting": said.waiting}
    )


def snapshots(found: Words[Any]) -> None:
    """The answer of `xds snapshot`; with the resources themselves where they were asked for."""
    _print(found, _snapshot)


def explanations(found: Words[Any], settles: float) -> None:
    """The answer of `xds explain`."""
    _print(
        found,
        lambda said: {"placements": list(map(_placement, said.placements))},
        settling_seconds=settles,
    )


def diff(clients: Words[Any], snapshots: Words[Any]) -> None:
    """The answer of `xds diff`."""
    published = {word.plane.id: word.said for word in snapshots if word.said is not None}

    def behind(said: Any) -> dict[str, Any]:
        return {
            "unconfirmed": [dataclasses.asdict(each) for each in differences.unconfirmed("", said)]
        }

    between = [dataclasses.asdict(each) for each in differences.disagreements(published)]
    _print(clients, behind, disagreements=between)


def _print(found: Words[Any], told: Callable[[Any], dict[str, Any]], **more: Any) -> None:
    planes = [
        {
            "id": word.plane.id,
            "address": word.plane.address,
            **({"why": word.why} if word.said is None else told(word.said)),
        }
        for word in found
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


def _snapshot(said: Any) -> dict[str, Any]:
    from sidecar.cli.xds.shown import body

    return {
        "version": said.version or None,
        "age_seconds": said.age_seconds,
        "catalog_status": said.catalog_status,
        "clusters": [
            {"name": cluster.name, "endpoints": list(map(_endpoint, cluster.endpoints))}
            for cluster in said.clusters
        ],
        "resources": [
            {
                "type": short(each.type_url),
                "name": each.name,
                "version": each.version,
                **({"body": body(each)} if each.HasField("body") else {}),
            }
            for each in said.resources
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
