"""`triton-sidecar canary`: record, test and list questions with known answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from sidecar.cli.canary_record import Question
    from sidecar.health.canary import Canary
    from sidecar.health.examine import Examined
    from sidecar.health.record import Proposal
    from sidecar.triton_api import Answer

app = typer.Typer(
    help="Questions with known answers: record, test and list them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Config = Annotated[Path | None, typer.Option(help="The sidecar's TOML file.", show_default=False)]
Files = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[FILE]...", help="TOML files of [canary.MODEL].", show_default=False),
]
_STYLES = {"OK": "green", "WARNING": "yellow", "CRITICAL": "red"}


@app.command()
def record(
    model: Annotated[str, typer.Argument(help="The model to ask.")],
    triton: Annotated[str, typer.Option(metavar="HOST:PORT", help="Its Triton's gRPC port.")],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=VALUE",
            help="An input: text, a number, JSON, or @FILE (.npy, .json, an image). Repeatable.",
        ),
    ] = None,
    inputs_file: Annotated[
        Path | None, typer.Option("--inputs", help="All inputs, as KServe's JSON.")
    ] = None,
    times: Annotated[int, typer.Option(min=1, max=1000, help="How often to ask.")] = 5,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one answer.")] = 60.0,
    output: Annotated[Path, typer.Option(help="The file to write.")] = Path("canary.toml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
) -> None:
    """Ask a running model, and write a canary that expects its answer.

    Without inputs, some are derived from the model's metadata. What the answers differ in is not
    expected.
    """
    import asyncio

    from sidecar.cli.canary_record import Wishes, record_canary

    if inputs and inputs_file:
        raise typer.BadParameter("expected --input or --inputs, not both")
    wishes = Wishes(
        model, _address(triton), output.absolute(), inputs or (), inputs_file, times, timeout, force
    )
    asyncio.run(record_canary(wishes, _show))
    print(f"{output}: [canary.{model}] is written; read again and asked once more, it passes")


@app.command("test")
def examine(
    paths: Files = None,
    config: Config = None,
    triton: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Triton's gRPC port.", show_default="triton.grpc"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Ask every canary once; exit status 0 only if all pass."""
    import asyncio

    address, canaries, bare = _load(config, paths)
    address = triton or address
    if address is None:
        raise typer.BadParameter("expected --triton HOST:PORT, or --config")
    found = asyncio.run(_examined(_address(address), canaries, bare))
    _print_json(found) if as_json else _print(_results(found))
    raise typer.Exit(0 if all(each.finding.ok for each in found) else 1)


@app.command("list")
def list_(paths: Files = None, config: Config = None) -> None:
    """Show what is asked and expected; asks nobody."""
    _, canaries, bare = _load(config, paths)
    _print(_listing(canaries, bare))


async def _examined(
    address: str, canaries: "Sequence[Canary]", bare: Sequence[str]
) -> "list[Examined]":
    from sidecar.health.examine import examine_all
    from sidecar.triton import Triton

    async with Triton(address) as door:
        return await examine_all(door, canaries, bare)


def _load(
    config: Path | None, paths: Sequence[Path] | None
) -> "tuple[str | None, Sequence[Canary], Sequence[str]]":
    """Triton's address if it is known, the canaries, and the models without one."""
    from sidecar.cli import canary_files

    if bool(config) == bool(paths):
        raise typer.BadParameter("expected --config or files of canaries, one of the two")
    if config:
        settings, canaries, bare = canary_files.of_settings(config)
        return settings.triton.grpc, canaries, bare
    return None, canary_files.read(paths or ()), ()


def _address(text: str) -> str:
    from sidecar.settings.values import split_address

    try:
        split_address(text)
    except ValueError as error:
        raise typer.BadParameter(f"--triton: {error}, found {text!r}") from None
    return text


# --- what is shown --------------------------------------------------------------------------


def _print(table: "Table") -> None:
    import sys

    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _show(question: "Question", answers: "Sequence[Answer]", proposal: "Proposal") -> None:
    """The question's answer, what to expect of it and why."""
    if question.derived:
        print("The inputs are derived from the model's metadata; --input gives better ones.")
    _print(_answer(answers[0], proposal))
    alike = "the same each time" if proposal.repeatable else "not the same each time"
    slowest = max(answer.seconds for answer in answers)
    print(f"Asked {len(answers)} times: {alike}; the slowest took {slowest:.3g} s.")
    for remark in proposal.remarks:
        print(f"  {remark}")


def _answer(answer: "Answer", proposal: "Proposal") -> "Table":
    from rich.markup import escape
    from rich.table import Table

    from sidecar.health.expectations.showing import plain, show

    table = Table("output", "datatype", "shape", "answer", "will be expected")
    for name, value in answer.outputs.items():
        elements = [plain(element) for element in value.array.ravel()[:16]]
        expected = [each for each in proposal.expect if each["output"] == name]
        keys = ", ".join(key for each in expected for key in each if key != "output")
        shown = show(elements[0] if value.array.size == 1 else elements)
        shape = str([*value.array.shape])
        table.add_row(*map(escape, (name, value.datatype, shape, shown, keys or "nothing")))
    return table


def _results(found: "Sequence[Examined]") -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table("model", "result", "reason", "detail", "first", "total")
    for each in found:
        finding, answer = each.finding, each.answer
        style = _STYLES.get(finding.level.name, "")
        times = [f"{answer.first:.3f} s", f"{answer.seconds:.3f} s"] if answer else ["", ""]
        name = f"{finding.subject}{' (derived)' if each.derived else ''}"
        result = "passes" if finding.ok else "fails"
        text = map(escape, (finding.reason.value, finding.detail, *times))
        table.add_row(escape(name), f"[{style}]{result}[/]", *text)
    return table


def _print_json(found: "Sequence[Examined]") -> None:
    import json

    document = [
        {
            "model": each.finding.subject,
            "ok": each.finding.ok,
            "reason": each.finding.reason.value,
            "level": each.finding.level.name,
            "detail": each.finding.detail,
            "derived": each.derived,
            "first_seconds": each.answer.first if each.answer else None,
            "seconds": each.answer.seconds if each.answer else None,
        }
        for each in found
    ]
    print(json.dumps(document, indent=2))


def _listing(canaries: "Sequence[Canary]", bare: Sequence[str]) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table("model", "inputs", "expected", "budgets", "derived")
    for canary in canaries:
        inputs = "\n".join(
            f"{name} {value.datatype} {[*value.array.shape]}"
            for step in canary.steps
            for name, value in step.items()
        )
        expected: dict[str, list[str]] = {}
        for each in canary.expectations:
            expected.setdefault(each.output, []).append(each.key)
        wanted = "\n".join(f"{name}: {', '.join(keys)}" for name, keys in expected.items())
        table.add_row(*map(escape, (canary.model, inputs, wanted, _budgets(canary), "")))
    for model in bare:
        table.add_row(escape(model), "from its metadata", "form, finite", "", "derived")
    return table


def _budgets(canary: "Canary") -> str:
    from dataclasses import asdict

    given = {"timeout": canary.timeout, **asdict(canary.budgets)}
    return "\n".join(f"{key} {value:g} s" for key, value in given.items() if value is not None)
