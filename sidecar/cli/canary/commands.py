"""`triton-sidecar canary`: record, test and list questions with known answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidecar.cli import numbers
from sidecar.cli.exit_status import epilog, exit_with_status
from sidecar.cli.operator.connect import Wide

if TYPE_CHECKING:
    from sidecar.cli.canary.files import Described
    from sidecar.health.canary.examine import Examined

app = typer.Typer(
    help="Record, test and list canaries: questions with known answers.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Config = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The sidecar's TOML file.", show_default=False),
]
Triton = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT", help="Triton's gRPC address. Default: triton.grpc of --config."
    ),
]
MaxAnswer = Annotated[
    int | None,
    typer.Option(
        metavar="BYTES",
        parser=numbers.whole(1024, 2**31 - 1),
        help="The largest answer accepted. Default: health.max_answer of --config, or 16 MiB.",
        show_default=False,
    ),
]
Files = Annotated[
    list[Path] | None,
    typer.Argument(metavar="FILE", help="TOML files of [canary.MODEL].", show_default=False),
]

# \b: lines as they are.
_INPUTS = """\b
The FILE of --inputs is as in KServe's JSON, a request or only its inputs:
  {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}]}
  [{"name": "x", "datatype": "FP32", "file": "x.npy"}]
or, for a stateful model, the requests of one sequence:
  {"steps": [[{"name": "x", ...}], [{"name": "x", ...}]]}
Elements of BYTES are text, or bytes as {"hex": "80 01 fe"} or {"base64": "gAH+"}.
Files in it are relative to it. An object may have KServe's "parameters" and "id" as well, which
each request has; --parameter and --id win. A parameter that is text and looks like a number is
given as JSON: --parameter 'name="5"'.

\b
Arrays of more than 64 elements are written next to the output, as OUTPUT.NAME.npy. With --force
those of an earlier record are removed.
"""
_UNREACHED = "Triton is unreachable"


@app.command(
    epilog=_INPUTS
    + "\n"
    + epilog("the canary is written", "the model gives no answer worth recording", _UNREACHED)
)
def record(
    model: Annotated[str, typer.Argument(help="The model to ask.")],
    triton: Triton = None,
    config: Config = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=VALUE",
            help="An input: text, a number, JSON, or @FILE (.npy, .json, an image). Repeatable.",
        ),
    ] = None,
    inputs_file: Annotated[
        Path | None,
        typer.Option("--inputs", metavar="FILE", help="All inputs, as JSON; see below."),
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter",
            metavar="NAME=VALUE",
            help="A parameter of the request: true, false, a number, or text. Repeatable.",
        ),
    ] = None,
    id: Annotated[
        str | None, typer.Option("--id", metavar="TEXT", help="The request's id.")
    ] = None,
    times: Annotated[
        int,
        typer.Option(metavar="COUNT", parser=numbers.whole(1, 1000), help="How many times to ask."),
    ] = 5,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", parser=numbers.seconds(0.1), help="Deadline for one answer."
        ),
    ] = 60.0,
    max_answer: MaxAnswer = None,
    output: Annotated[
        str, typer.Option(metavar="FILE", help="The file to write, in a folder that exists.")
    ] = "canary.toml",
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
    wide: Wide = False,
) -> None:
    """Ask a running model, and write a canary that expects the same answer.

    Without inputs, some are derived from the model's metadata. Whatever varies between answers is
    not expected.
    """
    import asyncio
    from functools import partial

    from sidecar.cli.canary import files, text_output
    from sidecar.cli.canary.record import RecordOptions, record_canary
    from sidecar.runtime.errors import ConfigError

    with exit_with_status():
        if inputs and inputs_file:
            raise ConfigError("expected --input or --inputs, not both")
        known = files.without_canaries(config, model)
        address = _address(triton, known.triton)
        place = files.place(output, force)
        flags = tuple(inputs or ())
        options = RecordOptions(
            model=model,
            triton=address,
            output=place,
            inputs=flags,
            inputs_file=inputs_file,
            parameters=tuple(parameters or ()),
            id=id,
            times=times,
            timeout=timeout,
            max_answer=max_answer or known.max_answer,
            force=force,
        )
        show = partial(text_output.proposal, wide=wide)
        written = asyncio.run(record_canary(options, show, known.headers))
        print(f"{output}: [canary.{model}] is written; read again and asked once more, it passes")
        text_output.written(written, Path(output).parent)


@app.command("test", epilog=epilog("all canaries pass", "a canary does not pass", _UNREACHED))
def examine(
    paths: Files = None,
    config: Config = None,
    triton: Triton = None,
    max_answer: MaxAnswer = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, also for errors.")
    ] = False,
    wide: Wide = False,
) -> None:
    """Run every canary once, and check its answer against every expectation.

    An answer that is right but later than its timeout, or slower than a budget, does not pass.
    """
    import asyncio

    from sidecar.cli.canary import text_output
    from sidecar.cli.operator import json_output

    found: list[Examined] = []
    with exit_with_status(json_output.failure if as_json else None):
        described = _described(config, paths)
        address = _address(triton, described.triton)
        bound = max_answer or described.max_answer
        found = asyncio.run(_examined(address, described, bound))
    text_output.document(found) if as_json else text_output.results(found, wide)
    raise typer.Exit(0 if all(each.finding.ok for each in found) else 1)


@app.command("list", epilog=epilog(unreached=""))
def list_(paths: Files = None, config: Config = None, wide: Wide = False) -> None:
    """Show what each canary asks and expects, and where that is described; offline."""
    from sidecar.cli.canary import text_output

    with exit_with_status():
        text_output.listing(_described(config, paths), wide)


async def _examined(address: str, described: "Described", max_answer: int) -> "list[Examined]":
    from sidecar.health.canary.derived_canary import DerivedCanary
    from sidecar.health.canary.examine import examine_all, reach
    from sidecar.triton.client import Triton

    async with Triton(address, max_answer, described.headers) as triton:
        await reach(triton, address)
        derived = {model: DerivedCanary() for model in described.bare}
        return await examine_all(triton, described.canaries, derived)


def _described(config: Path | None, paths: Sequence[Path] | None) -> "Described":
    from sidecar.cli.canary import files
    from sidecar.runtime.errors import ConfigError

    if bool(config) == bool(paths):
        raise ConfigError("expected --config or files of canaries, one of the two")
    return files.of_settings(config) if config else files.of_files(paths or ())


def _address(given: str | None, configured: str | None) -> str:
    from sidecar.runtime.addresses import split_address
    from sidecar.runtime.errors import ConfigError

    address = configured if given is None else given
    if address is None:
        raise ConfigError("expected --triton HOST:PORT, or --config")
    try:
        split_address(address)
    except ValueError as error:
        raise ConfigError(f"--triton: {error}, found {address!r}") from None
    return address
