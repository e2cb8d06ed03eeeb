"""What the verbs that run for ever have in common."""

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None,
    typer.Option(help="TOML file with the settings.", show_default=False),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Override one setting; repeatable."),
]
CheckConfig = Annotated[
    bool,
    typer.Option("--check-config", help="Check the settings, print them and exit."),
]


def not_yet_hung_up() -> None:
    """Let a reload that comes before anything is loaded do nothing, instead of end the process."""
    import signal

    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def flags(overrides: list[str] | None) -> dict[str, object]:
    """The settings given as `table.key=value`."""
    found: dict[str, object] = {}
    for override in overrides or ():
        key, equals, value = override.partition("=")
        if not equals or "." not in key:
            raise typer.BadParameter(f"expected TABLE.KEY=VALUE, found {override!r}")
        found[key] = value
    return found
