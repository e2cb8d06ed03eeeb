"""The options that the verbs of drills share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from sidecar.cli import numbers
from sidecar.runtime.errors import ConfigError

ON_OWN_MESH, ON_LIVE_MESH = "rate=50,streams=2", "rate=10,streams=0"

Load = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC",
        help="Open loop: rate=50,streams=2. Closed loop: clients=4,streams=2,pause=50ms.",
        show_default=f"{ON_OWN_MESH}; with --live {ON_LIVE_MESH}",
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
Live = Annotated[
    bool,
    typer.Option("--live", help="On the mesh that --config names: what its sidecars permit."),
]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="With --live: a sidecar's TOML file: where Consul is, which service, and the "
        "canaries, which are the load.",
        show_default=False,
    ),
]
Service = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="With --live: the Consul service.", show_default="that of --config"
    ),
]
Envoy = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="With --live: an Envoy's listener, which the load goes through.",
        show_default=False,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="With --live: do not ask for confirmation.")]


@dataclass(frozen=True, slots=True)
class Method:
    """How drills are run and reported, as the options say."""

    repeat: int
    seed: int
    load: str | None
    slo: Path | None
    report: Path | None
    wide: bool


@dataclass(frozen=True, slots=True)
class Where:
    """Which mesh drills are run on, as the options say; without any, a cluster of their own."""

    mesh: Path | None
    live: bool = False
    config: Path | None = None
    service: str | None = None
    envoy: str | None = None
    yes: bool = False

    def check(self) -> None:
        """Check that the options name one mesh.

        Raises:
            ConfigError: with every mistake at once.
        """
        if mistakes := list(self._mistakes()):
            raise ConfigError("\n".join(mistakes))

    def _mistakes(self) -> list[str]:
        if self.live:
            found = ["expected --mesh or --live, not both"] if self.mesh else []
            if self.config is None:
                found.append("--live: expected --config FILE with [canary.MODEL] tables")
            if self.envoy is None:
                found.append("--live: expected --envoy HOST:PORT, which the load goes through")
            return found
        given = {
            "--config": self.config is not None,
            "--service": self.service is not None,
            "--envoy": self.envoy is not None,
            "--yes": self.yes,
        }
        return [f"{flag}: expected --live with it" for flag, is_set in given.items() if is_set]
