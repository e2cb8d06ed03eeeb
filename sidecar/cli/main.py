"""The command `triton-sidecar`. Each verb imports what it needs when it is called."""

from typing import Annotated

import typer

from sidecar import __version__
from sidecar.cli import output
from sidecar.cli import run as run_options
from sidecar.cli.canary.commands import app as canary
from sidecar.cli.drill.commands import app as drill
from sidecar.cli.exit_status import Root, epilog, exit_with_status
from sidecar.cli.gpu import gpu
from sidecar.cli.local import app as local
from sidecar.cli.model import commands as model
from sidecar.cli.operator import listing, pause, switchover
from sidecar.cli.policy import commands
from sidecar.cli.run import CheckConfig, Config, Set
from sidecar.cli.xds import commands as xds

app = typer.Typer(
    name="triton-sidecar",
    cls=Root,
    help="Keeps GPU inference answering: health, registration and failover for Triton.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(local, name="local")
app.add_typer(canary, name="canary")
app.add_typer(drill, name="drill")
app.command(
    epilog=epilog("no finding is critical", "a finding is critical, or it failed", unreached="")
)(gpu)
for group in (listing, switchover, pause, commands, xds, model):
    group.add_to(app)


@app.command(epilog=run_options.STATUS)
def run(config: Config = None, overrides: Set = None, check_config: CheckConfig = False) -> None:
    """Run the sidecar of one Triton. SIGHUP reloads, SIGTERM drains and ends."""
    if not check_config:
        run_options.not_yet_running()
    from sidecar.settings import SidecarSettings, in_use, load_sidecar

    flags = run_options.flags(overrides)
    with exit_with_status(), in_use(SidecarSettings, config, flags):
        if check_config:
            from sidecar.notify import notifier
            from sidecar.recovery import actions
            from sidecar.settings import hosts, paths
            from sidecar.settings.canaries import build_all

            settings = load_sidecar(config, flags)
            build_all(settings)  # reads the files that canaries name
            settings.consul.access.check()
            settings.triton.read_headers()
            if action := settings.recovery.action:
                actions.build(action.restart, settings.triton.grpc)
            notifier.check(settings.hooks.rules, settings.receivers)
            paths.check_sidecar(settings)
            hosts.check_sidecar(settings)
            print(settings.model_dump_json(indent=2))
            return
        from sidecar.app.run import run as serve

        run_options.serve(serve(lambda: load_sidecar(config, flags)))


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


@output.guard_output()
def main() -> None:
    """Run the command."""
    app()
