"""`triton-sidecar switchover`, `failover` and `flush`: orders that move the role of primary."""

import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from sidecar.cli.exit_status import exit_with_status
from sidecar.cli.operator.connect import (
    STATUS,
    UNREACHED,
    Config,
    Json,
    Mesh,
    Service,
    Wide,
    duration,
    operate,
)

if TYPE_CHECKING:
    from sidecar.election.keys.orders import Order
    from sidecar.operator.operator_client import OperatorClient
    from sidecar.operator.order_progress import Moved, Step
    from sidecar.operator.plans import FailoverPreview, OrderRequest, Plan
    from sidecar.operator.service_status import ServiceStatus

To = Annotated[
    str | None,
    typer.Option(
        metavar="ID", help="The new primary, by its id in Consul.", show_default="the best one"
    ),
]
Reason = Annotated[str, typer.Option(help="The reason, for the history.")]
Timeout = Annotated[
    str,
    typer.Option(
        metavar="DURATION", help="How long to wait, such as 90s, before the order is cancelled."
    ),
]

flush_app = typer.Typer(
    help="Cancel a pending order.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def switchover(
    to: To = None,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="When: ISO 8601, or the next HH:MM; local time unless it has a zone.",
            show_default="now",
        ),
    ] = None,
    after: Annotated[
        str | None, typer.Option("--in", metavar="DURATION", help="When, from now, such as 10m.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="With --at or --in: wait until the role has moved.")
    ] = False,
    reason: Reason = "",
    timeout: Timeout = "60s",
    mesh: Mesh = None,
    config: Config = None,
    service: Service = None,
    as_json: Json = False,
) -> None:
    """Move the role from a healthy primary; no request fails, and streams finish where they are.

    The candidate proves itself with fresh canaries before the primary releases the role. Returns
    when all Envoys have acknowledged the new primary. A scheduled one chooses its candidate then,
    if no --to is given.
    """
    from sidecar.operator import plans

    show = _show(as_json)
    with exit_with_status(show.failure, UNREACHED):
        moment, patience = _moment(at, after), duration("--timeout", timeout)

        async def move(client: "OperatorClient") -> None:
            request = plans.OrderRequest(client.order_id(), client.by, to, moment, reason)
            later = moment is not None and not wait
            await _order(client, request, plans.switchover, None if later else patience, show)

        operate(mesh, config, service, move)


def failover(
    to: To = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Override a healthy primary, and skip the candidate's proof."),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="With --force: do not ask for confirmation.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show which instance would win, and why; write nothing."),
    ] = False,
    reason: Reason = "",
    timeout: Timeout = "60s",
    mesh: Mesh = None,
    config: Config = None,
    service: Service = None,
    as_json: Json = False,
    wide: Wide = False,
) -> None:
    """Make another instance primary where there is no healthy one, or by force.

    Says what is lost. With --force, a primary that does not release the role within 3 s
    loses its session. It asks for confirmation first, and refuses if the failover would cost more
    than was confirmed; without a terminal, give --yes.
    """
    from sidecar.operator import operator_client, plans

    asks = force and not (yes or dry_run)
    show = _show(as_json, asks, wide)
    with exit_with_status(show.failure, UNREACHED):
        patience = duration("--timeout", timeout)
        plan: Callable[[ServiceStatus, OrderRequest], Plan] = plans.failover
        if asks:
            agreed = _agreed(lambda plan: operate(mesh, config, service, plan), to)
            plan = partial(plans.confirmed, agreed=agreed)

        async def move(client: "OperatorClient") -> None:
            request = plans.OrderRequest(client.order_id(), client.by, to, None, reason, force)
            if not dry_run:
                return await _order(client, request, plan, patience, show)
            foreseen = plans.preview_failover(await operator_client.read_status(client), request)
            show.foresight(foreseen)
            raise typer.Exit(0 if foreseen.winner and not foreseen.refusal else 1)

        operate(mesh, config, service, move)


@flush_app.command("switchover", epilog=STATUS)
def flush(
    mesh: Mesh = None, config: Config = None, service: Service = None, as_json: Json = False
) -> None:
    """Cancel the pending order, no matter who gave it."""
    from sidecar.cli.operator import json_output, text_output
    from sidecar.operator import operator_client

    with exit_with_status(json_output.failure if as_json else None, UNREACHED):
        cancelled = operate(mesh, config, service, operator_client.cancel_pending)
    (json_output.flushed if as_json else text_output.flushed)(cancelled)


class Show(Protocol):
    """Prints the progress of a move, as text or JSON."""

    def failure(self, why: str) -> None:
        """The move was refused or has failed."""

    def lost(self, lost: "Sequence[str]") -> None:
        """What the move loses or overrides."""

    def scheduled(self, order: "Order") -> None:
        """The move is scheduled."""

    def step(self, step: "Step") -> None:
        """A step of the move."""

    def moved(self, moved: "Moved") -> None:
        """The role has moved."""

    def foresight(self, foreseen: "FailoverPreview") -> None:
        """The expected result of a failover."""


def _show(as_json: bool, asked: bool = False, wide: bool = False) -> Show:
    from sidecar.cli.operator import json_output, text_output

    return json_output.MoveObject() if as_json else text_output.MoveLines(asked, wide)


def _agreed(
    ask: "Callable[[Callable[[OperatorClient], Awaitable[Plan]]], Plan]", to: str | None
) -> "Plan":
    """Ask the operator at the terminal to confirm a forced failover; returns the confirmed plan.

    Raises:
        ConfigError: there is no terminal.
        Conflict: it is refused or not confirmed.
    """
    from sidecar.operator import operator_client, plans
    from sidecar.runtime.errors import ConfigError, Conflict

    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ConfigError("expected --yes with --force: there is no terminal to ask at")

    async def plan(client: "OperatorClient") -> "Plan":
        request = plans.OrderRequest(client.order_id(), client.by, to, force=True)
        return plans.failover(await operator_client.read_status(client), request)

    planned = ask(plan)
    for line in planned.lost:
        print(f"note: {line}", file=sys.stderr)
    print(f"make {planned.order.to} primary by force? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Conflict("not confirmed; nothing was written")
    return planned


async def _order(
    client: "OperatorClient",
    request: "OrderRequest",
    plan: "Callable[[ServiceStatus, OrderRequest], Plan]",
    patience: float | None,
    show: Show,
) -> None:
    """Plan and write an order, and wait up to `patience` seconds, if given, for its end.

    Raises:
        Interrupted: Ctrl-C was pressed before its end.
        SidecarError: it is refused or has failed.
    """
    import asyncio

    from sidecar.operator import operator_client
    from sidecar.runtime.errors import Interrupted

    seen = await operator_client.read_status(client)
    planned = plan(seen, request)
    show.lost(planned.lost)
    try:
        order = await operator_client.write_order(client, planned)
    except asyncio.CancelledError:  # Ctrl-C
        raise Interrupted("stopped waiting; the order may stand, check with `list`") from None
    if patience is None:
        return show.scheduled(order)
    return await _follow(client, order, seen, patience, show)


async def _follow(
    client: "OperatorClient", order: "Order", before: "ServiceStatus", patience: float, show: Show
) -> None:
    import asyncio

    from sidecar.operator import follow_order

    moved = await follow_order.wait_until_moved(client, order, before, patience, show.step)
    await follow_order.wait_until_acknowledged(client, order, before, moved, patience, show.step)
    with suppress(asyncio.CancelledError):  # Ctrl-C: the role has moved, whatever the cost
        moved = await follow_order.with_cost(client, order, moved)
    show.moved(moved)


def _moment(at: str | None, after: str | None) -> float | None:
    """The Unix seconds that --at or --in mean; None for now."""
    from sidecar.operator.times import parse_time
    from sidecar.runtime.errors import ConfigError

    if at is not None and after is not None:
        raise ConfigError("expected --at or --in, not both")
    if after is not None:
        return time.time() + duration("--in", after)
    if at is None:
        return None
    try:
        return parse_time(at, datetime.now())
    except ValueError as error:
        raise ConfigError(f"--at: {error}, found {at!r:.80}") from None


def add_to(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command(epilog=STATUS)(switchover)
    app.command(epilog=STATUS)(failover)
    app.add_typer(flush_app, name="flush")
