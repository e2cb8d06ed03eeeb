"""`triton-sidecar list` and `history`: which instance is primary, which could be, and which was."""

from typing import Annotated

import typer

from sidecar.cli import numbers
from sidecar.cli.exit_status import exit_with_status
from sidecar.cli.operator.connect import (
    STATUS,
    UNREACHED,
    Config,
    Json,
    Mesh,
    Service,
    Wide,
    operate,
)


def list_(
    mesh: Mesh = None,
    config: Config = None,
    service: Service = None,
    as_json: Json = False,
    wide: Wide = False,
) -> None:
    """Show every instance: its verdict and role, and why it could not become primary."""
    from sidecar.cli.operator import json_output, text_output
    from sidecar.operator import operator_client

    with exit_with_status(json_output.failure if as_json else None, UNREACHED):
        seen = operate(mesh, config, service, operator_client.read_known_status)
    json_output.situation(seen) if as_json else text_output.situation(seen, wide)


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
    from sidecar.cli.operator import json_output, text_output
    from sidecar.operator import operator_client

    with exit_with_status(json_output.failure if as_json else None, UNREACHED):
        found = operate(
            mesh, config, service, lambda client: operator_client.read_history(client, newest)
        )
    json_output.history(found) if as_json else text_output.history(found, wide)


def add_to(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("list", epilog=STATUS)(list_)
    app.command(epilog=STATUS)(history)
