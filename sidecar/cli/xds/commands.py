"""`triton-sidecar xds`: runs the control plane, and queries running ones."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from sidecar.cli import run
from sidecar.cli.exit_status import epilog, exit_with_status
from sidecar.cli.operator import connect
from sidecar.cli.operator.connect import Json, Mesh, Wide
from sidecar.cli.run import CheckConfig, Set

if TYPE_CHECKING:
    from sidecar.operator.inspection import PlaneRef, Replies
    from sidecar.operator.operator_client import OperatorClient

T = TypeVar("T")

At = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Ask only this control plane, without Consul. Default: all that Consul lists.",
        show_default=False,
    ),
]
_STATUS = epilog(
    unreached="Consul or a control plane is unreachable, or the address is something else"
)
UNREACHED = "use --at HOST:PORT to ask a control plane without Consul"

app = typer.Typer(
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(epilog=run.STATUS)
def xds(
    context: typer.Context,
    config: run.Config = None,
    overrides: Set = None,
    check_config: CheckConfig = False,
) -> None:
    """Run the control plane that turns Consul's catalog into Envoy's configuration.

    With a command: inspect running control planes.
    """
    if context.invoked_subcommand is not None:
        if config or overrides or check_config:
            raise typer.BadParameter(f"expected options after `{context.invoked_subcommand}`")
        return
    if not check_config:
        run.not_yet_running()
    from sidecar.settings import XdsSettings, in_use, load_xds

    flags = run.flags(overrides)
    with exit_with_status(), in_use(XdsSettings, config, flags):
        if check_config:
            from sidecar.settings import hosts, paths
            from sidecar.xds.self_registration import dialed_address

            settings = load_xds(config, flags)
            settings.consul.access.check()
            paths.check_xds(settings)
            hosts.check_xds(settings)
            dialed_address(settings.xds.plane)
            print(settings.model_dump_json(indent=2))
            return
        from sidecar.xds.app import serve

        run.serve(serve(lambda: load_xds(config, flags)))


@app.command(epilog=_STATUS)
def clients(
    at: At = None,
    mesh: Mesh = None,
    config: connect.Config = None,
    as_json: Json = False,
    wide: Wide = False,
) -> None:
    """Show the Envoys: what each has acknowledged and rejected, and how far behind it is."""
    from sidecar.cli.xds import json_output, text_output
    from sidecar.operator import inspection

    with _ending(as_json, at):
        found = _ask(at, mesh, config, inspection.clients)
    json_output.clients(found) if as_json else text_output.clients(found, wide)


@app.command(epilog=_STATUS)
def snapshot(
    yaml: Annotated[
        bool, typer.Option("--yaml", help="Print the resources as Envoy gets them.")
    ] = False,
    at: At = None,
    mesh: Mesh = None,
    config: connect.Config = None,
    as_json: Json = False,
    wide: Wide = False,
) -> None:
    """Show what is published: the endpoints of each cluster, by preference."""
    from sidecar.cli.xds import json_output, text_output
    from sidecar.operator import inspection

    with _ending(as_json, at):
        found = _ask(at, mesh, config, lambda planes: inspection.snapshots(planes, bodies=yaml))
    if as_json:
        return json_output.snapshots(found)
    return text_output.resources(found) if yaml else text_output.snapshots(found, wide)


@app.command(epilog=_STATUS)
def explain(
    instance: Annotated[
        str, typer.Argument(metavar="INSTANCE", help="The instance's id in Consul.")
    ],
    service: Annotated[
        str, typer.Option(metavar="NAME", help="Only for this service.", show_default=False)
    ] = "",
    at: At = None,
    mesh: Mesh = None,
    config: connect.Config = None,
    as_json: Json = False,
) -> None:
    """Show whether an instance gets requests, with which priority and weight, and why."""
    from sidecar.cli.xds import json_output, text_output
    from sidecar.operator import inspection

    async def ask(planes: "tuple[PlaneRef, ...]") -> "Replies[Any]":
        return await inspection.explanations(planes, service, instance)

    async def ask_all(client: "OperatorClient") -> "tuple[Replies[Any], float]":
        found = await ask(await inspection.registered(client))
        return found, await inspection.settling(client, found, instance)

    with _ending(as_json, at):
        if at is None:
            found, settles = connect.operate(mesh, config, None, ask_all)
        else:
            found, settles = _ask(at, mesh, config, ask), 0.0  # only Consul knows that
    (json_output.explanations if as_json else text_output.explanations)(found, settles)


@app.command(epilog=_STATUS)
def diff(
    at: At = None,
    mesh: Mesh = None,
    config: connect.Config = None,
    as_json: Json = False,
    wide: Wide = False,
) -> None:
    """Show what Envoys have not acknowledged, and where control planes publish differently."""
    from sidecar.cli.xds import json_output, text_output
    from sidecar.operator import inspection

    async def ask(planes: "tuple[PlaneRef, ...]") -> "tuple[Replies[Any], Replies[Any]]":
        return await inspection.clients(planes), await inspection.snapshots(planes)

    with _ending(as_json, at):
        found = _ask(at, mesh, config, ask)
    json_output.diff(*found) if as_json else text_output.diff(*found, wide)


@app.command(
    epilog=epilog(
        "no requests are left",
        "requests are left after --timeout",
        "the admin interface is unreachable, or not Envoy's",
    )
)
def drain(
    admin: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Envoy's admin interface.")],
    pause: Annotated[
        str, typer.Option(help="How long to ask clients to leave before listeners close.")
    ] = "5s",
    timeout: Annotated[
        str, typer.Option(help="How long in-flight requests may take after that.")
    ] = "60s",
) -> None:
    """Drain an Envoy before it is stopped: it finishes its requests and accepts no new ones.

    This cannot be undone: restart the Envoy to use it again.
    """
    with exit_with_status():
        import asyncio

        from sidecar.runtime.addresses import split_address
        from sidecar.runtime.clock import SystemClock
        from sidecar.runtime.errors import ConfigError, DeadlineExceeded
        from sidecar.settings.values import parse_duration
        from sidecar.xds.envoys import envoy_shutdown

        try:
            split_address(admin)
            lengths = parse_duration(pause), parse_duration(timeout)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        left = asyncio.run(envoy_shutdown.finish(admin, *lengths, SystemClock(), print))
        if left:
            raise DeadlineExceeded(f"{left} requests are left after {timeout}")


def _ask(
    at: str | None,
    mesh: Path | None,
    config: Path | None,
    question: "Callable[[tuple[PlaneRef, ...]], Awaitable[T]]",
) -> T:
    """Query the control planes that the options name.

    Raises:
        ConfigError: the options contradict each other.
        SidecarError: as `question` does, or Consul does not answer.
    """
    from sidecar.operator import inspection
    from sidecar.runtime.errors import ConfigError

    if at is None:

        async def ask(client: "OperatorClient") -> T:
            return await question(await inspection.registered(client))

        return connect.operate(mesh, config, None, ask)
    import asyncio

    from sidecar.runtime.addresses import split_address

    if mesh is not None or config is not None:
        raise ConfigError("expected --at, --mesh or --config, not two of them")
    try:
        split_address(at)
    except ValueError as error:
        raise ConfigError(f"--at: {error}") from None

    async def one() -> T:
        return await question(inspection.at(at))

    return asyncio.run(one())


def _ending(as_json: bool, at: str | None) -> AbstractContextManager[None]:
    from sidecar.cli.operator import json_output as operator_json

    hint = UNREACHED if at is None else ""
    return exit_with_status(operator_json.failure if as_json else None, hint)


def add_to(parent: typer.Typer) -> None:
    """Add the verbs."""
    parent.add_typer(app, name="xds")
