"""Runs `triton-sidecar drill soak`, and says how a violation is repeated."""

import asyncio
import secrets
from functools import partial
from pathlib import Path

import typer

from sidecar.drill.conduct import Conditions, Tell
from sidecar.drill.load import spec
from sidecar.drill.objectives import ObjectivesByScenario
from sidecar.drill.report import files, repeat
from sidecar.drill.scenarios.catalog import SCENARIOS
from sidecar.drill.session import interruptible
from sidecar.drill.soak import session as soak

_SEEDS = 1 << 32


def run(
    minutes: int,
    seed: int | None,
    start: int,
    load: str,
    objectives: ObjectivesByScenario | None,
    folder: Path | None,
    wide: bool,
    tell: Tell,
) -> None:
    """Soak, report, and exit by the objectives."""
    drawn = secrets.randbelow(_SEEDS) if seed is None else seed
    conditions = Conditions(spec.parse(load), drawn, tell)
    place = files.prepare(folder)
    tell(f"seed {drawn}, {minutes} min")
    record = asyncio.run(
        interruptible(
            soak.hold(
                soak.Soak(
                    SCENARIOS,
                    minutes * 60.0,
                    start,
                    place,
                    objectives or soak.OBJECTIVES,
                    conditions,
                    partial(files.write, place),
                )
            )
        )
    )
    files.show(record, wide)
    for made in record.runs:
        if made.status != "passed":
            again = repeat.one(record.environment, made.scenario, made.round)
            print(f"{made.scenario} #{made.round}: repeat it with: {again}")
    print(f"report: {place / files.PAGE}")
    raise typer.Exit(0 if record.passed else 1)
