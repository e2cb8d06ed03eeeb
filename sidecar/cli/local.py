"""`triton-sidecar local`: a whole mesh on this machine."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidecar.cli import numbers
from sidecar.cli.exit_status import epilog, exit_with_status
from sidecar.cli.operator.connect import Wide

if TYPE_CHECKING:
    from sidecar.local.control import MeshStatus

app = typer.Typer(
    help="A whole mesh on this machine: real Consul, Envoy and Tritons on free loopback ports.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_DEFAULT = "$XDG_STATE_HOME/triton-sidecar/mesh"

Mesh = Annotated[
    Path | None,
    typer.Option(
        "--mesh", help="The mesh's folder, or the mesh.json in it.", show_default=_DEFAULT
    ),
]


@app.command(epilog=epilog("the mesh ran until it was stopped", unreached=""))
def up(
    instances: Annotated[
        int,
        typer.Option(metavar="COUNT", parser=numbers.whole(1, 32), help="How many Tritons."),
    ] = 2,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--dir", help="Where files and logs go; one mesh per folder.", show_default=_DEFAULT
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return once the mesh is up.")] = False,
    no_restart: Annotated[
        bool, typer.Option("--no-restart", help="Do not restart parts that die.")
    ] = False,
    acl: Annotated[
        bool,
        typer.Option("--acl", help="Turn on Consul's ACLs: default deny, a token for each role."),
    ] = False,
    envoy_concurrency: Annotated[
        int,
        typer.Option(metavar="COUNT", parser=numbers.whole(1), help="Envoy's worker threads."),
    ] = 2,
    cold: Annotated[
        int,
        typer.Option(
            metavar="COUNT",
            parser=numbers.whole(0),
            help="How many instances are cold standbys: they load models on promotion.",
        ),
    ] = 0,
    models: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="A further model to serve: a folder with config.pbtxt and canary.toml. "
            "May be repeated.",
        ),
    ] = None,
    only_models: Annotated[
        bool, typer.Option("--only-models", help="Serve only these, not the demo models.")
    ] = False,
) -> None:
    """Start a mesh; stop it with Ctrl-C, or with `local down`.

    A part that dies is restarted. Consul keeps its data while the mesh is up, so that it too can
    die and come back. A mesh that already runs in the folder is left alone, even if its `local up`
    was killed: `local down` stops it.
    """
    from sidecar.local import control, launch, status_table
    from sidecar.local.planning.plan import MeshOptions
    from sidecar.runtime.terminal import is_interactive

    if cold > instances:
        wanted = f"expected at most as many as --instances, {instances}, found {cold}"
        raise typer.BadParameter(wanted, param_hint="'--cold'")
    place, further = _folder(folder), [path.expanduser().absolute() for path in models or ()]
    with exit_with_status(remote=False):
        if detach:
            flags = [f"--dir={place}", f"--instances={instances}", f"--cold={cold}"]
            flags += [f"--models={path}" for path in further]
            flags += [f"--envoy-concurrency={envoy_concurrency}"]
            switches = {"--no-restart": no_restart, "--acl": acl, "--only-models": only_models}
            flags += [switch for switch, wanted in switches.items() if wanted]
            mesh = control.detach(place, flags)
            print(status_table.summary(mesh))
            return
        options = MeshOptions(
            folder=place,
            instances=instances,
            restart=not no_restart,
            acl=acl,
            envoy_concurrency=envoy_concurrency,
            models=tuple(further),
            demo_models=not only_models,
            cold=cold,
        )
        try:
            launch.up(options, status_table.live if is_interactive() else status_table.lines)
        finally:
            complete = status_table.finish()
        if not complete:
            raise typer.Exit(1)


@app.command(epilog=epilog("all is well", "something is not", unreached=""))
def status(
    mesh: Mesh = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, also for errors.")
    ] = False,
    wide: Wide = False,
) -> None:
    """Show each part and instance."""
    from sidecar.cli.operator import json_output
    from sidecar.local import control

    with exit_with_status(json_output.failure if as_json else None, remote=False):
        found = control.status(_folder(mesh))
    _print_json(found) if as_json else _print_table(found, wide)
    raise typer.Exit(0 if found.well else 1)


@app.command(epilog=epilog(unreached=""))
def down(mesh: Mesh = None) -> None:
    """Stop a mesh gracefully, and check that it leaves no process, shared memory or port behind.

    Also cleans up after a mesh whose `local up` was killed. Logs stay.
    """
    from sidecar.local import control

    place = _folder(mesh)
    with exit_with_status(remote=False):
        found = control.down(place)
    print(f"{place}: the mesh is down" if found else f"{place}: no mesh is running there")


def _folder(given: Path | None) -> Path:
    from sidecar.local import meshfile

    if given is not None:
        return meshfile.folder(given)
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return meshfile.folder(Path(state) / "triton-sidecar" / "mesh")


def _print_json(found: "MeshStatus") -> None:
    import json
    import time

    parts = [
        {
            "name": part.state.name,
            "state": part.state.condition,
            "well": part.well,
            "answer": part.answer,
            "pid": part.state.process.pid if part.state.process else None,
            "uptime": time.time() - part.state.since
            if part.state.process and part.state.since
            else None,
            "restarts": part.state.restarts,
            "exit": part.state.exit,
            "address": part.state.address,
            "log": str(part.state.log),
        }
        for part in found.parts
    ]
    instances = [
        {
            "id": seen.id,
            "verdict": seen.status,
            "role": seen.role,
            "reason": seen.reason,
            "model_set_differs": seen.differs,
        }
        for seen in found.instances.values()
    ]
    document = {
        "done": found.well,
        **({} if found.well else {"why": "not all is well: see parts, instances and trouble"}),
        "well": found.well,
        "dir": str(found.mesh.dir),
        "phase": found.record.phase if found.supervised else "supervisor gone",
        "supervisor": {"pid": found.record.supervisor.pid if found.supervised else None},
        "paused": found.paused,
        "parts": parts,
        "instances": instances,
        "trouble": found.trouble,
    }
    print(json.dumps(document, indent=2))


def _print_table(found: "MeshStatus", wide: bool) -> None:
    from sidecar.local import status_table
    from sidecar.runtime.terminal import show

    show(status_table.table(found.record, found.instances), wide)
    print(status_table.summary(found.mesh))
    for part in found.parts:
        if not part.well:
            print(f"{part.state.name}: {part.answer}; log {part.state.log}")
    for seen in found.instances.values():
        for line in filter(None, (seen.reason, seen.differs)):
            print(f"{seen.id}: {line}")
    if found.paused:
        print(f"Automation is paused {found.paused}")
    if found.trouble:
        print(found.trouble)
    if not found.supervised:
        print("The supervisor is gone; `triton-sidecar local down` cleans up.")
