"""`triton-sidecar policy`: reads and edits how a service's requests are spread."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated

import typer

from sidecar.cli.exit_status import epilog, exit_with_status
from sidecar.cli.operator.connect import STATUS, UNREACHED, Config, Json, Mesh, Service, operate

if TYPE_CHECKING:
    from sidecar.operator.operator_client import OperatorClient
    from sidecar.operator.policy_edit import PolicyEdit

File = Annotated[
    str, typer.Argument(metavar="FILE", help="The policy in JSON or YAML; - is standard input.")
]

app = typer.Typer(
    help="Control how requests are spread over the instances: mode, release, affinity, limits.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command(epilog=STATUS)
def get(
    whole: Annotated[bool, typer.Option("--all", help="Include the defaults.")] = False,
    mesh: Mesh = None,
    config: Config = None,
    service: Service = None,
    as_json: Json = False,
) -> None:
    """Print the policy, as `policy set` takes it, or what is wrong with it."""
    from sidecar.cli.policy import text_output
    from sidecar.operator import policy_edit

    with _ending(as_json):
        seen = operate(mesh, config, service, policy_edit.read)
        text_output.stored(seen, seen.readable(), whole, as_json)


@app.command("set", epilog=STATUS)
def set_(
    file: File,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change; write nothing.")
    ] = False,
    mesh: Mesh = None,
    config: Config = None,
    service: Service = None,
    as_json: Json = False,
) -> None:
    """Set the policy; what the file leaves out takes its default.

    The file is checked before anything is written. Refused if the policy changes at the same
    moment.
    """
    from sidecar.cli.policy import text_output
    from sidecar.operator import policy_edit, policy_file

    with _ending(as_json):
        wished = policy_file.load(file)

        async def act(client: "OperatorClient") -> "PolicyEdit":
            edit = await policy_edit.plan(client, wished)
            if not dry_run:
                await policy_edit.write(client, edit)
            return edit

        text_output.edit(operate(mesh, config, service, act), not dry_run, as_json)


@app.command(epilog=STATUS)
def diff(
    file: File,
    mesh: Mesh = None,
    config: Config = None,
    service: Service = None,
    as_json: Json = False,
) -> None:
    """Show what `policy set FILE` would change."""
    set_(file, True, mesh, config, service, as_json)


@app.command(epilog=epilog("it is a valid policy", unreached=""))
def validate(file: File, as_json: Json = False) -> None:
    """Check a file, offline."""
    from sidecar.cli.policy import text_output
    from sidecar.operator import policy_file

    with _ending(as_json):
        text_output.valid(file, policy_file.load(file), as_json)


@app.command(epilog=STATUS)
def promote(
    mesh: Mesh = None, config: Config = None, service: Service = None, as_json: Json = False
) -> None:
    """Send all requests to the release: its percentage becomes 100."""
    from sidecar.cli.policy import text_output
    from sidecar.operator import policy_edit

    with _ending(as_json):
        text_output.edit(operate(mesh, config, service, policy_edit.promote), True, as_json)


@app.command(epilog=STATUS)
def rollback(
    reason: Annotated[str, typer.Option(help="The reason, shown to other operators.")] = "",
    mesh: Mesh = None,
    config: Config = None,
    service: Service = None,
    as_json: Json = False,
) -> None:
    """Stop sending requests to the release; the policy records who rolled it back, and why."""
    from sidecar.cli.policy import text_output
    from sidecar.operator import policy_edit

    with _ending(as_json):
        edit = operate(mesh, config, service, lambda client: policy_edit.roll_back(client, reason))
        text_output.edit(edit, True, as_json)


@app.command(epilog=STATUS)
def reset(
    mesh: Mesh = None, config: Config = None, service: Service = None, as_json: Json = False
) -> None:
    """Remove the policy, readable or not, so that the defaults apply."""
    from sidecar.cli.policy import text_output
    from sidecar.operator import policy_edit

    with _ending(as_json):
        text_output.removed(operate(mesh, config, service, policy_edit.reset), as_json)


def _ending(as_json: bool) -> AbstractContextManager[None]:
    from sidecar.cli.operator import json_output

    return exit_with_status(json_output.failure if as_json else None, UNREACHED)


def add_to(parent: typer.Typer) -> None:
    """Add the verbs."""
    parent.add_typer(app, name="policy")
