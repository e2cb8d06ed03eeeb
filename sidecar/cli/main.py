"""The command `triton-sidecar`. Each verb imports what it needs when it is called."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from sidecar import __version__
from sidecar.cli import look, moves, pauses, policy
from sidecar.cli.canary import app as canary
from sidecar.cli.gpu import gpu
from sidecar.cli.local import app as local
from sidecar.errors import ConfigError, SidecarError

app = typer.Typer(
    name="triton-sidecar",
    help="Keeps GPU inference answering: health, registration and failover for Triton.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(local, name="local")
app.add_typer(canary, name="canary")
app.command()(gpu)
for group in (look, moves, pauses, policy):
    group.add_to(app)

Config = Annotated[
    Path | None,
    typer.Option(help="TOML file with the settings.", show_default=False),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Override one setting; repeatable."),
]
CheckConfig = Annotated[
    bool,
    typer.Option("--check-config", help="Check the settings, print them and exit."),
]


@app.command()
def run(config: Config = None, overrides: Set = None, check_config: CheckConfig = False) -> None:
    """Run the sidecar of one Triton. SIGHUP reloads, SIGTERM drains and ends."""
    _not_yet_hung_up()
    from sidecar.settings import load_sidecar

    flags = _flags(overrides)
    if check_config:
        from sidecar.health.inputs import build_all
        from sidecar.notify import notifier
        from sidecar.recovery import actions

        settings = load_sidecar(config, flags)
        build_all(settings)  # reads the files that canaries name
        settings.consul.read_token()
        if action := settings.recovery.action:
            actions.build(action, settings.triton.grpc)
        notifier.check(settings.hooks, settings.notify, f"{config}: " if config else "")
        if (folder := settings.triton.repository) and not folder.is_dir():
            raise ConfigError(f"{config}: triton.repository: expected a folder, found {folder}")
        return print(settings.model_dump_json(indent=2))
    import asyncio

    from sidecar.app import run as serve

    sys.exit(asyncio.run(serve(lambda: load_sidecar(config, flags))))


@app.command()
def xds(config: Config = None, overrides: Set = None, check_config: CheckConfig = False) -> None:
    """Run the control plane that turns Consul's catalog into Envoy's configuration."""
    _not_yet_hung_up()
    from sidecar.settings import load_xds

    flags = _flags(overrides)
    if check_config:
        return print(load_xds(config, flags).model_dump_json(indent=2))
    import asyncio

    from sidecar.xds.app import serve

    sys.exit(asyncio.run(serve(lambda: load_xds(config, flags))))


def _version(wanted: bool) -> None:
    if wanted:
        print(f"triton-sidecar {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _not_yet_hung_up() -> None:
    """Let a reload that comes before anything is loaded do nothing, instead of end the process."""
    import signal

    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _flags(overrides: list[str] | None) -> dict[str, object]:
    """The settings given as `table.key=value`."""
    flags: dict[str, object] = {}
    for override in overrides or ():
        key, equals, value = override.partition("=")
        if not equals or "." not in key:
            raise typer.BadParameter(f"expected TABLE.KEY=VALUE, found {override!r}")
        flags[key] = value
    return flags


def main() -> None:
    """Run the command; an error that the user can mend is one message and exit status 1."""
    try:
        app()
    except SidecarError as error:
        for line in str(error).splitlines():
            print(f"triton-sidecar: {line}", file=sys.stderr)
        sys.exit(1)
