"""`triton-sidecar pause` and `resume`: turn automation off and on."""

from typing import Annotated

import typer

from sidecar.cli.exit_status import exit_with_status
from sidecar.cli.operator.connect import (
    STATUS,
    UNREACHED,
    Config,
    Json,
    Mesh,
    Service,
    duration,
    operate,
)


def pause(
    span: Annotated[
        str | None,
        typer.Option(
            "--for",
            metavar="DURATION",
            help="How long to pause, such as 30m or 2h.",
            show_default="until `resume`",
        ),
    ] = None,
    reason: Annotated[str, typer.Option(help="The reason, shown to other operators.")] = "",
    mesh: Mesh = None,
    config: Config = None,
    service: Service = None,
    as_json: Json = False,
) -> None:
    """Turn automation off: no instance takes a free role, and no Triton is restarted.

    Probes, registration and Envoy's own checks continue; operators' orders are carried out. The
    last primary takes the role again if it loses its session and is healthy.
    """
    from sidecar.cli.operator import json_output, text_output
    from sidecar.operator import operator_client

    with exit_with_status(json_output.failure if as_json else None, UNREACHED):
        seconds = None if span is None else duration("--for", span)
        new, old = operate(
            mesh, config, service, lambda client: operator_client.pause(client, seconds, reason)
        )
    (json_output.paused if as_json else text_output.paused)(new, old)


def resume(
    mesh: Mesh = None, config: Config = None, service: Service = None, as_json: Json = False
) -> None:
    """Turn automation on again."""
    from sidecar.cli.operator import json_output, text_output
    from sidecar.operator import operator_client

    with exit_with_status(json_output.failure if as_json else None, UNREACHED):
        old = operate(mesh, config, service, operator_client.resume)
    (json_output.resumed if as_json else text_output.resumed)(old)


def add_to(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command(epilog=STATUS)(pause)
    app.command(epilog=STATUS)(resume)
