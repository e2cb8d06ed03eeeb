"""`triton-sidecar list` and `history`: who is primary, who could be, and who was."""

from typing import Annotated

import typer

from sidecar.cli import numbers
from sidecar.cli.ending import ending
from sidecar.cli.operate import STATUS, UNREACHED, Config, Json, Mesh, Service, Wide, operate


def list_(
    mesh: Mesh = None,
    config: Config = None,
    service: Service = None,
    as_json: Json = False,
    wide: Wide = False,
) -> None:
    """Show every instance: its verdict and role, and why it could not become primary."""
    from sidecar.cli import operator_json, operator_shown
    from sidecar.operator import desk as desks

    with ending(operator_json.failure if as_json else None, UNREACHED):
        seen = operate(mesh, config, service, desks.inspect)
    operator_json.situation(seen) if as_json else operator_shown.situation(seen, wide)


def history(
    newest: Annotated[
        int,
        typer.Option(
            "--newest", "-n", metavar="COUNT", parser=numbers.whole(1), help="How many entries."
        ),
    ] = 20,
    mesh: Mesh = None,
    config: Config = None,
    service: Service = None,
    as_json: Json = False,
    wide: Wide = False,
) -> None:
    """Show which instances took the role, when and why, and what failed meanwhile; newest last."""
    from sidecar.cli import operator_json, operator_shown
    from sidecar.operator import desk as desks

    with ending(operator_json.failure if as_json else None, UNREACHED):
        found = operate(mesh, config, service, lambda desk: desks.past(desk, newest))
    operator_json.history(found) if as_json else operator_shown.history(found, wide)


def add_to(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("list", epilog=STATUS)(list_)
    app.command(epilog=STATUS)(history)
