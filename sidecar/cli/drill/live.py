"""Runs drills on a live mesh: reads its canaries, asks for confirmation, and holds the session."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar.cli.drill.options import Where
from sidecar.cli.operator.connect import operate
from sidecar.runtime.errors import ConfigError, Conflict

if TYPE_CHECKING:
    from sidecar.drill.record import Record
    from sidecar.drill.scenario import Scenario
    from sidecar.drill.session import Session
    from sidecar.health.canary.definition import Canary
    from sidecar.operator.operator_client import OperatorClient
    from sidecar.operator.service_status import ServiceStatus

LOG = "load.log"  # in the report's folder


def agree(where: Where, chosen: "Sequence[Scenario[Any]]", rounds: int, load: str) -> None:
    """Have the operator type the service's name, unless --yes is given.

    Raises:
        ConfigError: there is no terminal to ask at.
        Conflict: it was not typed.
        SidecarError: Consul does not answer or refuses.
    """
    from sidecar.drill.live import consent
    from sidecar.operator import operator_client

    if where.yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ConfigError("expected --yes with --live: there is no terminal to ask at")

    async def status(client: "OperatorClient") -> "ServiceStatus":
        return await operator_client.read_known_status(client)

    seen = operate(None, where.config, where.service, status)
    for line in consent.terms(seen, chosen, rounds, load, where.envoy or ""):
        print(f"note: {line}", file=sys.stderr)
    print("type the service's name to begin: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() != seen.service:
        raise Conflict("not confirmed; nothing was injected")


def hold(where: Where, session: "Session", canaries: "Sequence[Canary]", folder: Path) -> "Record":
    """Hold a session on the live mesh; `folder` is the report's.

    Raises:
        Interrupted: Ctrl-C, SIGTERM or SIGHUP ended it; the fault was removed.
        SidecarError: Consul does not answer or refuses.
    """
    from dataclasses import replace

    from sidecar.drill import session as sessions
    from sidecar.drill.live.scenarios import on_live_mesh
    from sidecar.drill.live.stage import Entrance, LiveStage

    async def held(client: "OperatorClient") -> "Record":
        stage = LiveStage(client, Entrance(where.envoy or "", canaries, folder / LOG))
        on_it = replace(session, scenarios=on_live_mesh(session.scenarios), live=stage)
        return await sessions.interruptible(sessions.hold(on_it))

    return operate(None, where.config, where.service, held)


def canaries(where: Where) -> "Sequence[Canary]":
    """The questions of the load: the canaries in --config.

    Raises:
        ConfigError: there are none, or --envoy is no address; with every mistake in the file.
    """
    from sidecar.cli.canary import files
    from sidecar.runtime.addresses import split_address

    try:
        split_address(where.envoy or "")
    except ValueError as error:
        raise ConfigError(f"--envoy: {error}, found {where.envoy!r:.80}") from None
    assert where.config is not None  # noqa: S101 - `Where.check` has seen it
    if found := files.of_settings(where.config).canaries:
        return found
    raise ConfigError(f"{where.config}: expected [canary.MODEL] tables, which are the load")
