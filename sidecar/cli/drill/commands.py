"""`triton-sidecar drill`: breaks a mesh on purpose, measures, and reports."""

import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidecar.cli import numbers
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

STATUS = epilog("every objective was met", "one was not met, or a drill was aborted", unreached="")

Load = Annotated[
    str,
    typer.Option(
        metavar="SPEC",
        help="Open loop: rate=50,streams=2. Closed loop: clients=4,streams=2,pause=50ms.",
    ),
]
Repeat = Annotated[
    int,
    typer.Option(metavar="COUNT", parser=numbers.whole(1, 1000), help="How often to run each."),
]
Seed = Annotated[
    int, typer.Option(metavar="N", parser=numbers.whole(0), help="Determines the load's schedule.")
]
Slo = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Objectives in TOML.", show_default="the built-in ones"),
]
Report = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Where the report goes.", show_default="drill-DATE in this folder"
    ),
]


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
    repeat: Repeat = 1,
    seed: Seed = 1,
    load: Load = "rate=50,streams=2",
    slo: Slo = None,
    report: Report = None,
    wide: Wide = False,
) -> None:
    """Run scenarios, by default on a cluster of its own.

    It has three Consul servers, three hosts and an edge, each a network namespace of this machine.
    The report is a folder: record.json, junit.xml and report.html.
    """
    from sidecar.drill.scenarios import catalog

    with exit_with_status(remote=False):
        chosen = catalog.select(scenarios)
        _run(chosen, mesh, repeat, seed, load, slo, report, wide)


@app.command("all", epilog=STATUS)
def all_(
    mesh: Mesh = None,
    repeat: Repeat = 1,
    seed: Seed = 1,
    load: Load = "rate=50,streams=2",
    slo: Slo = None,
    report: Report = None,
    wide: Wide = False,
) -> None:
    """Run every scenario that is possible on the mesh."""
    from sidecar.drill.scenarios.catalog import SCENARIOS

    with exit_with_status(remote=False):
        _run(SCENARIOS, mesh, repeat, seed, load, slo, report, wide)


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


def _run(
    chosen: "Sequence[Scenario[Any]]",
    mesh: Path | None,
    repeat: int,
    seed: int,
    load: str,
    slo: Path | None,
    folder: Path | None,
    wide: bool,
) -> None:
    import asyncio

    from sidecar.drill.conduct import Conditions
    from sidecar.drill.load import spec
    from sidecar.drill.report import files
    from sidecar.drill.session import Session, hold, interruptible

    bounds = _objectives(slo)
    conditions = Conditions(spec.parse(load), seed, _tell)
    place = files.prepare(folder)
    session = Session(chosen, repeat, mesh, bounds, conditions, partial(files.write, place))
    record = asyncio.run(interruptible(hold(session)))
    files.show(record, wide)
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
    print(f"{time.strftime('%H:%M:%S')}  {step}", file=sys.stderr, flush=True)
