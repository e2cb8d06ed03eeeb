"""The options that the operator's verbs share, and the client that they run with."""

from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from sidecar.cli.exit_status import epilog

if TYPE_CHECKING:
    from sidecar.operator.operator_client import OperatorClient
    from sidecar.operator.target import Target

T = TypeVar("T")

Mesh = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="The folder of a mesh of `local up`.", show_default=False),
]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A sidecar's or control plane's TOML file: where Consul is, and which service. "
        "It overrides CONSUL_HTTP_ADDR.",
        show_default=False,
    ),
]
Service = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="The Consul service.", show_default="that of --config, or triton"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, also for errors.")]
Wide = Annotated[
    bool, typer.Option("--wide", help="Show whole ids and every column, however long the lines.")
]

UNREACHED = "to use another Consul, set --config, --mesh or CONSUL_HTTP_ADDR"
STATUS = epilog()


def operate(
    mesh: Path | None,
    config: Path | None,
    service: str | None,
    verb: "Callable[[OperatorClient], Awaitable[T]]",
) -> T:
    """Run a verb on the mesh that the options name.

    Raises:
        ConfigError: the options do not name one mesh.
        SidecarError: as `verb` does.
    """
    import asyncio

    from sidecar.settings import OperatorSettings, in_use

    target = _target(mesh, config, service)
    with in_use(OperatorSettings, config) if mesh is None else nullcontext():
        return asyncio.run(_with_client(target, verb))


def duration(flag: str, text: str) -> float:
    """The seconds of a flag such as `10m`; the unit is required, so that it is not mistaken.

    Raises:
        ConfigError: it is not a duration above zero, or has no unit.
    """
    from sidecar.runtime.errors import ConfigError
    from sidecar.settings.values import parse_duration

    try:
        seconds = parse_duration(text)
        if text.strip()[-1].isdigit():
            wanted = f"expected a unit, such as {text.strip()}s or {text.strip()}m"
        elif seconds > 0:
            return seconds
        else:
            wanted = "expected a duration above zero"
    except ValueError as error:
        wanted = str(error)
    raise ConfigError(f"{flag}: {wanted}, found {text!r:.80}")


def _target(mesh: Path | None, config: Path | None, service: str | None) -> "Target":
    from sidecar.cli import mesh_option
    from sidecar.runtime.errors import ConfigError
    from sidecar.settings.values import name

    if service is not None:
        try:
            name(service)
        except ValueError as error:
            raise ConfigError(f"--service: {error}, found {service!r:.80}") from None
    if mesh is not None and config is not None:
        raise ConfigError("expected --mesh or --config, not both")
    if mesh is not None:
        return mesh_option.of_mesh(mesh, service)
    return mesh_option.of_settings(config, service)


async def _with_client(target: "Target", verb: "Callable[[OperatorClient], Awaitable[T]]") -> T:
    import uuid

    from sidecar.consul.client import Consul
    from sidecar.operator.operator_client import OperatorClient
    from sidecar.operator.target import operator_name
    from sidecar.runtime.clock import SystemClock
    from sidecar.runtime.errors import Conflict, Rejected, SidecarError, Unavailable

    target.consul.read_token()
    async with Consul(target.consul) as consul:
        client = OperatorClient(
            consul,
            target.service,
            target.control_plane,
            target.declared,
            operator_name(),
            SystemClock(),
            lambda: uuid.uuid4().hex[:12],
        )
        try:
            return await verb(client)
        except Conflict:
            raise
        except Rejected as error:  # any web server may answer so, not only Consul
            try:
                known = await consul.is_consul()
            except SidecarError:  # which proves nothing
                raise error from None
            if known:
                raise
            url = target.consul.url
            raise Unavailable(f"{error}; {url} is not a Consul") from error
