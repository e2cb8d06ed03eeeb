"""`triton-sidecar gpu`: shows the GPUs' readings, and the sidecar's findings."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidecar.cli import numbers
from sidecar.cli.exit_status import exit_with_status
from sidecar.cli.operator.connect import Wide

if TYPE_CHECKING:
    from sidecar.gpu.api import GpuReading
    from sidecar.runtime.terminal import Grid
    from sidecar.settings.tables.gpu import GpuSettings
    from sidecar.verdict.evidence import Finding

_STYLES = {"OK": "green", "WARNING": "yellow", "CRITICAL": "red", "UNKNOWN": "dim"}


def gpu(
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The sidecar's TOML file, for its [gpu] table.", show_default=False
        ),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Indices or UUIDs, comma-separated.",
            show_default="gpu.devices, or as in CUDA_VISIBLE_DEVICES, or all",
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write NVML's raw answers to this file, as JSON."),
    ] = None,
    rounds: Annotated[
        int,
        typer.Option(metavar="COUNT", parser=numbers.whole(1, 1000), help="How many readings."),
    ] = 1,
    interval: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", parser=numbers.seconds(0), help="Time between two readings."
        ),
    ] = 1.0,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            parser=numbers.seconds(0.1),
            help="Deadline for one reading.",
            show_default="gpu.timeout of --config, or 30",
        ),
    ] = None,
    wide: Wide = False,
) -> None:
    """Show what NVML reports about the GPUs, and what the sidecar finds wrong.

    A missing GPU is not critical unless gpu.enabled is "required".
    """
    import asyncio

    from sidecar.verdict.evidence import Level

    with exit_with_status(remote=False):
        settings = _settings(config, devices, timeout)
        if settings.enabled == "off":
            off = 'gpu.enabled is "off": the sidecar ignores GPUs; this is what NVML shows'
            print(f"{config}: {off}")
        recorder = _recorder() if record else None
        findings = asyncio.run(_look(settings, recorder, rounds, interval, wide))
        if record:
            _write(record, recorder)
    raise typer.Exit(int(any(finding.level is Level.CRITICAL for finding in findings)))


async def _look(
    settings: "GpuSettings", recorder: Any, rounds: int, interval: float, wide: bool
) -> tuple["Finding", ...]:
    """Read the GPUs `rounds` times, print each reading, and return the last findings."""
    import asyncio
    import os

    from sidecar.cli import output
    from sidecar.gpu.api import select
    from sidecar.gpu.client import Gpu
    from sidecar.health.gpu import Baseline, assess_gpu, first_seen, unavailable
    from sidecar.runtime.errors import Unavailable

    baseline: Baseline = {}
    findings: tuple[Finding, ...] = ()
    async with Gpu(select(settings.devices, os.environ), recorder) as reader:
        for remaining in reversed(range(rounds)):
            try:
                readings = await reader.read(settings.timeout)
            except Unavailable as error:
                findings = (unavailable(error, settings.rules),)
                print(f"GPU: unavailable: {error}")
            else:
                baseline = first_seen(baseline, readings)
                findings = assess_gpu(readings, baseline, settings.rules)
                _print(readings, findings, reader.driver, wide)
            if recorder is not None:
                recorder.end_round()
            elif not output.is_still_read():
                break
            if remaining:
                await asyncio.sleep(interval)
    return findings


def _settings(config: Path | None, devices: str | None, timeout: float | None) -> "GpuSettings":
    """`[gpu]` of a file, or the defaults without one; flags take precedence.

    Raises:
        ConfigError: the file has mistakes, or `devices` has another form.
    """
    from pydantic import ValidationError

    from sidecar.runtime.errors import ConfigError
    from sidecar.settings import load_sidecar
    from sidecar.settings.tables.gpu import GpuSettings

    # Files of canaries are not needed here, and may be missing.
    found = load_sidecar(config, {"triton.canaries": []}).gpu if config else GpuSettings(timeout=30)
    update: dict[str, object] = {} if timeout is None else {"timeout": timeout}
    if devices is not None:
        try:
            names = tuple(name.strip() for name in devices.split(","))
            update["devices"] = GpuSettings(devices=names).devices
        except ValidationError:
            raise ConfigError(
                f"--devices: expected indices or UUIDs such as 0,GPU-8932f937, found {devices!r}"
            ) from None
    return found.model_copy(update=update)


def _recorder() -> Any:
    import pynvml

    from sidecar.gpu.recording import Recorder

    return Recorder(pynvml)


def _write(path: Path, recorder: Any) -> None:
    import json

    from sidecar.runtime.errors import unwritable, words

    text = json.dumps(
        {"about": "recorded by triton-sidecar gpu", "rounds": recorder.rounds}, indent=1
    )
    try:
        path.write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise unwritable(error)(f"--record: {path}: {words(error)}") from None
    print(f"{path}: {len(recorder.rounds)} readings recorded; UUIDs and process ids are in it")


def _print(
    readings: Sequence["GpuReading"],
    findings: Sequence["Finding"],
    driver: str | None,
    wide: bool,
) -> None:
    from rich.text import Text

    from sidecar.runtime import terminal

    if driver:
        print(f"driver {driver}")
    for each in grids(readings, terminal.width(wide)):
        terminal.show(each, wide)
    for finding in findings:
        level = finding.level.name
        line = Text(f"{level:8} {finding.reason}: {finding.detail}", _STYLES[level])
        terminal.console().print(line, soft_wrap=True)


def grids(readings: Sequence["GpuReading"], width: int | None) -> Iterator["Grid"]:
    """Tables with a row for each property and a column for each GPU, as many as fit the width.

    A dash is a value that the GPU does not report.
    """
    from sidecar.runtime.terminal import Grid

    some: list[GpuReading] = []
    last: Grid | None = None
    for reading in readings:
        wider = _grid([*some, reading])
        if last is not None and wider.fitting(width) is None:
            yield last
            some, wider = [], _grid([reading])
        some, last = [*some, reading], wider
    if last is not None:
        yield last


def _grid(readings: Sequence["GpuReading"]) -> "Grid":
    from sidecar.runtime.terminal import Column, Grid

    titles = (f"GPU {'?' if each.index is None else each.index}" for each in readings)
    made = Grid([Column(""), *(Column(title, folds=True) for title in titles)], boxed=False)
    columns = [_cells(reading) for reading in readings]
    for name in columns[0]:
        made.add(name, *(cells[name] or "—" for cells in columns))
    return made


def _cells(gpu: "GpuReading") -> dict[str, str | None]:
    remap = gpu.row_remap
    return {
        "name": gpu.name or None,
        "UUID": gpu.uuid or None,
        "lost": gpu.lost,
        "memory free": _mebibytes(gpu.memory_free),
        "memory total": _mebibytes(gpu.memory_total),
        "utilization": None if gpu.utilization is None else f"{gpu.utilization:.0%}",
        "uncorrectable ECC errors": _text(gpu.ecc),
        "page retirement pending": _text(gpu.retirement_pending),
        "rows remapped": f"{remap.correctable} + {remap.uncorrectable}" if remap else None,
        "row remap pending, failed": f"{remap.pending}, {remap.failed}" if remap else None,
        "clocks lowered by": None if gpu.throttling is None else f"{gpu.throttling:#x}",
        "temperature °C": _text(gpu.temperature),
        "slowdown at °C": _text(gpu.slowdown_temperature),
        "margin to slowdown °C": _text(gpu.thermal_margin),
        "processes": None if gpu.processes is None else _processes(gpu),
        "Xids": None if gpu.xids is None else ", ".join(str(x.number) for x in gpu.xids) or "none",
    }


def _processes(gpu: "GpuReading") -> str:
    used = (f"{p.pid} ({_mebibytes(p.memory) or '?'})" for p in gpu.processes or ())
    return ", ".join(used) or "none"


def _mebibytes(amount: int | None) -> str | None:
    return None if amount is None else f"{amount / 2**20:.0f} MiB"


def _text(value: object) -> str | None:
    return None if value is None else str(value)
