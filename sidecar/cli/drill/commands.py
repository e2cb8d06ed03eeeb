"""`triton-sidecar drill`: breaks a mesh on purpose, measures, and reports."""

import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidecar.cli import numbers
from sidecar.cli.drill.options import (
    ON_LIVE_MESH,
    ON_OWN_MESH,
    Config,
    Envoy,
    Live,
    Load,
    Method,
    Repeat,
    Report,
    Seed,
    Service,
    Slo,
    Where,
    Yes,
)
from sidecar.cli.exit_status import epilog, exit_with_status
from sidecar.cli.operator.connect import Json, Mesh, Wide

if TYPE_CHECKING:
    from sidecar.drill.objectives import ObjectivesByScenario
    from sidecar.drill.scenario import Scenario

app = typer.Typer(
    help="Inject faults on purpose, under load, and measure what they cost.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

UNREACHED = "to use another Consul, set --config or CONSUL_HTTP_ADDR"
STATUS = epilog(
    "every objective was met",
    "one was not met, or a drill was aborted, or none was possible",
    "with --live: Consul is unreachable, or the address is not a Consul",
)
STATUS += "  130  interrupted; no fault is left\n"


@app.command("list", epilog=epilog(unreached=""))
def list_(as_json: Json = False, wide: Wide = False) -> None:
    """Show the scenarios, and what each needs."""
    from sidecar.cli.drill import text_output
    from sidecar.drill.scenarios.catalog import SCENARIOS

    text_output.scenarios(SCENARIOS, as_json, wide)


@app.command(epilog=STATUS)
def run(
    scenarios: Annotated[list[str], typer.Argument(metavar="SCENARIO...")],
    mesh: Mesh = None,
    live: Live = False,
    config: Config = None,
    service: Service = None,
    envoy: Envoy = None,
    yes: Yes = False,
    repeat: Repeat = 1,
    seed: Seed = 1,
    load: Load = None,
    slo: Slo = None,
    report: Report = None,
    wide: Wide = False,
) -> None:
    """Run scenarios, by default on a cluster of its own.

    It has three Consul servers, three hosts and an edge, each a network namespace of this machine.
    With --live, faults hit the mesh that --config names, as far as its sidecars' settings permit:
    type the service's name to begin, or give --yes. Whatever ends the command, the fault is undone.
    The report is a folder: record.json, junit.xml and report.html.
    """
    from sidecar.drill.scenarios import catalog

    where = Where(mesh, live, config, service, envoy, yes)
    with _status(where):
        chosen = catalog.select(scenarios)
        _run(chosen, where, Method(repeat, seed, load, slo, report, wide))


@app.command("all", epilog=STATUS)
def all_(
    mesh: Mesh = None,
    live: Live = False,
    config: Config = None,
    service: Service = None,
    envoy: Envoy = None,
    yes: Yes = False,
    repeat: Repeat = 1,
    seed: Seed = 1,
    load: Load = None,
    slo: Slo = None,
    report: Report = None,
    wide: Wide = False,
) -> None:
    """Run every scenario that is possible on the mesh; with --live, that its sidecars permit."""
    from sidecar.drill.scenarios.catalog import SCENARIOS

    where = Where(mesh, live, config, service, envoy, yes)
    with _status(where):
        _run(SCENARIOS, where, Method(repeat, seed, load, slo, report, wide))


@app.command(epilog=STATUS)
def soak(
    minutes: Annotated[
        int, typer.Option(metavar="COUNT", parser=numbers.whole(1, 1440), help="For how long.")
    ] = 60,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=numbers.whole(0),
            help="Determines the faults and the load.",
            show_default="drawn and printed",
        ),
    ] = None,
    start: Annotated[
        int,
        typer.Option(
            metavar="N", parser=numbers.whole(1), help="Begin with the Nth fault of the seed."
        ),
    ] = 1,
    load: Load = None,
    slo: Slo = None,
    report: Report = None,
    wide: Wide = False,
) -> None:
    """Inject random faults for a while, and look for leaks.

    It runs on a cluster of its own, as `run` does. No unary request may fail, memory must stay
    flat, and nothing may be left behind.
    """
    from sidecar.cli.drill import soaking

    with exit_with_status(remote=False):
        given = _objectives(slo) if slo else None
        soaking.run(minutes, seed, start, load or ON_OWN_MESH, given, report, wide, _tell)


@app.command(epilog=epilog("nothing got worse", "something got worse", unreached=""))
def compare(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A report's folder.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="A report's folder.")],
) -> None:
    """Show what changed between two reports."""
    from sidecar.drill.report import files

    with exit_with_status(remote=False):
        raise typer.Exit(files.compare(old, new))


@app.command(epilog=epilog(unreached=""))
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A report's folder.")],
    wide: Wide = False,
) -> None:
    """Print a report again, and write its page and its JUnit file anew from record.json."""
    from sidecar.drill.report import files

    with exit_with_status(remote=False):
        files.show(files.written_again(folder), wide)


def _status(where: Where) -> AbstractContextManager[None]:
    return exit_with_status(hint=UNREACHED if where.live else "", remote=where.live)


def _run(chosen: "Sequence[Scenario[Any]]", where: Where, method: Method) -> None:
    import asyncio

    from sidecar.cli.drill import live
    from sidecar.drill import session
    from sidecar.drill.conduct import Conditions
    from sidecar.drill.load import spec
    from sidecar.drill.report import files

    where.check()
    text = method.load or (ON_LIVE_MESH if where.live else ON_OWN_MESH)
    conditions = Conditions(spec.parse(text), method.seed, _tell)
    bounds = _objectives(method.slo)
    canaries = live.canaries(where) if where.live else ()
    if where.live:
        live.agree(where, chosen, method.repeat, text)
    place = files.prepare(method.report)
    written = partial(files.write, place)
    held = session.Session(chosen, method.repeat, where.mesh, bounds, conditions, written)
    if where.live:
        record = live.hold(where, held, canaries, place)
    else:
        record = asyncio.run(session.interruptible(session.hold(held)))
    files.show(record, method.wide)
    print(f"report: {place / files.PAGE}")
    raise typer.Exit(0 if record.passed else 1)


def _objectives(slo: Path | None) -> "ObjectivesByScenario":
    from sidecar.drill import objectives
    from sidecar.drill.scenarios.catalog import SCENARIOS
    from sidecar.runtime.errors import ConfigError, words

    if slo is None:
        return objectives.ObjectivesByScenario()
    try:
        text = slo.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--slo {slo}: expected a file in TOML: {words(error)}") from error
    return objectives.parse(text, str(slo), [scenario.name for scenario in SCENARIOS])


def _tell(step: str) -> None:
    """Progress goes to standard error, so that standard output is the report."""
    with suppress(OSError):  # the terminal is gone, and the drill goes on to its end
        print(f"{time.strftime('%H:%M:%S')}  {step}", file=sys.stderr, flush=True)
