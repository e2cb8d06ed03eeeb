"""A run as a picture: the latency of every request, the events, and the time of the fault.

The points are an image within the SVG, so that their number does not matter to a browser; failed
and wrong ones are shapes above it. Needs the extra `drill`.
"""

import html
import io
import re
from dataclasses import dataclass
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from sidecar.drill.record import Run
from sidecar.drill.report import window as windows
from sidecar.drill.report.figures import duration
from sidecar.drill.report.labels import Label
from sidecar.drill.report.window import Place, Window
from sidecar.drill.samples import Sample

# Told apart with every kind of colour blindness; 4.5:1 or more on white, so text may have them.
COLOURS: Final = ("#0060a8", "#b04a00", "#00705a", "#84409a", "#6a5d00", "#56606a")
UNKNOWN: Final = "#6b6b6b"
FAILED: Final = "#000000"
WRONG: Final = "#b0005c"
_INK, _QUIET, _GRID, _FAULT = "#1a1a1a", "#4a4f55", "#e3e6e9", "#fdf1dc"
_SHAPES: Final = ("o", "^", "s")  # of unary requests; another one for each round of the colours
_CRISP: Final = 144  # dots per inch of the image of points
_MANY: Final = 400  # from so many on, failed and wrong ones are part of the image, too
_FACES: Final = re.compile(r"'DejaVu Sans'[^;\"]*")
_COUNTED: Final = re.compile(r' id="(?!m[0-9a-f]{6,}"|p[0-9a-f]{6,}"|image)[^"]*"')
_OPENING: Final = re.compile(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>')
_LABEL: Final = "event-label"


@dataclass(frozen=True, slots=True)
class Paper:
    """The size of a picture, in points."""

    name: str
    wide: float
    high: float
    letters: float

    @property
    def place(self) -> Place:
        """The room for the plot and its labels. DejaVu Sans is the widest of the usual fonts."""
        return Place(self.wide - self.left - self.right, self.right - 2, 0.63 * self.letters)

    @property
    def left(self) -> float:
        """The room for the latencies at the axis."""
        return 4.4 * self.letters

    @property
    def right(self) -> float:
        """The room to the right of the plot, which labels may use."""
        return 1.2 * self.letters


PAPERS: Final = (Paper("wide", 880, 260, 12.5), Paper("narrow", 343, 230, 11))


def drawn(run: Run, window: Window, paper: Paper) -> str:
    """The picture of a window of a run as an `svg` element."""
    shown, labels = windows.labelled(run, window, paper.place)
    lane = 1.35 * paper.letters
    above = lane * (1 + max((label.lane for label in labels), default=0)) + 4
    below = 3.2 * paper.letters
    high = paper.high + above + below
    salt = f"{run.scenario}-{run.round}-{window.name}-{paper.name}"
    with mpl.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": salt,
            "font.size": paper.letters,
            "text.color": _INK,
            "text.parse_math": False,
        }
    ):
        figure = Figure(figsize=(paper.wide / 72, high / 72), facecolor="none")
        area = (paper.left / paper.wide, below / high, paper.place.across / paper.wide)
        axes = figure.add_axes((*area, paper.high / high), facecolor="none")
        _scale(axes, run, shown)
        _fault(axes, run)
        _requests(axes, run, shown)
        _events(axes, run, shown, labels, lane / paper.high)
        return _element(figure, run, window)


def colour(run: Run, instance: str) -> str:
    """The colour of an instance."""
    known = windows.instances(run)
    return COLOURS[known.index(instance) % len(COLOURS)] if instance in known else UNKNOWN


def _scale(axes: Axes, run: Run, shown: Window) -> None:
    axes.set_xlim(shown.left, shown.right)
    axes.set_yscale("log")
    axes.set_ylim(*windows.decades(run))
    axes.yaxis.set_major_locator(LogLocator(numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    small = shown.span < 2
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{1000 * value:.0f}" if small else f"{value:g}")
    )
    unit = "milliseconds" if small else "seconds"
    axes.set_xlabel(f"{unit} after the injection", color=_QUIET)
    axes.tick_params(which="both", color=_GRID, labelcolor=_QUIET, length=0)
    axes.grid(which="major", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_QUIET)


def _fault(axes: Axes, run: Run) -> None:
    """The time for which the fault was there."""
    begin = windows.zero(run)
    over = [mark.at - begin for mark in run.marks if mark.event in ("restored", "aborted")]
    if any(mark.event == "injected" for mark in run.marks):
        axes.axvspan(0, max(over, default=axes.get_xlim()[1]), color=_FAULT, linewidth=0, zorder=0)


def _requests(axes: Axes, run: Run, shown: Window) -> None:
    begin = windows.zero(run)
    seen = list(windows.seen(run, shown))
    size = 5.0 if len(seen) < 300 else 3.2 if len(seen) < 3000 else 2.2
    good = [each for each in seen if each.outcome == "answered"]
    for number, name in enumerate(("", *windows.instances(run))):
        shape = _SHAPES[max(0, number - 1) // len(COLOURS) % len(_SHAPES)]
        look = {"markersize": size, "color": colour(run, name), "markeredgewidth": 0, "alpha": 0.75}
        here = [each for each in good if each.instance == name]
        unary = [each for each in here if each.kind == "unary"]
        _plot(axes, unary, begin, marker=shape, rasterized=True, zorder=3, **look)
        streams = [each for each in here if each.kind == "stream"]
        hollow = {"markersize": 6, "markeredgecolor": colour(run, name), "markerfacecolor": "none"}
        _plot(axes, streams, begin, marker="s", rasterized=True, zorder=3, **hollow)
    bad = {kind: [each for each in seen if each.outcome == kind] for kind in ("wrong", "failed")}
    many = sum(map(len, bad.values())) > _MANY
    above = {"rasterized": many, "zorder": 5}
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.6, "color": WRONG}
    _plot(axes, bad["wrong"], begin, marker="D", markersize=5.5, **edge, **above)
    cross = {"color": FAILED, "markeredgewidth": 1.6}
    _plot(axes, bad["failed"], begin, marker="x", markersize=6.5, **cross, **above)


def _plot(axes: Axes, samples: list[Sample], begin: float, **look: object) -> None:
    if samples:
        at, took = windows.points(samples, begin)
        axes.plot(at, took, linestyle="none", clip_on=True, **look)  # type: ignore[arg-type]


def _events(axes: Axes, run: Run, shown: Window, labels: tuple[Label, ...], lane: float) -> None:
    """Lines of events; `lane` is the height of a lane as a share of the plot's."""
    across = axes.get_xaxis_transform()
    for _, mark, at in windows.marked(run, shown):
        strong = mark.event in ("injected", "restored", "aborted", "recovered")
        style = {"color": _INK, "linewidth": 1.0, "linestyle": "-" if strong else (0, (3, 2))}
        axes.plot([at, at], [0, 1], transform=across, zorder=4, **style)  # type: ignore[arg-type]
    left, width = shown.left, shown.span
    place = axes.get_position().width * axes.figure.get_figwidth() * 72  # type: ignore[union-attr]
    for label in labels:
        at = left + label.at / place * width
        foot = 1 + label.lane * lane
        pole = axes.plot([at, at], [1, foot + 0.85 * lane], transform=across, clip_on=False)
        pole[0].set(color=_INK, linewidth=1.0)
        axes.annotate(
            label.text,
            (at, foot + 0.22 * lane),
            xytext=(3, 0),
            xycoords=across,
            textcoords="offset points",
            annotation_clip=False,
            gid=_LABEL,
        )


def _element(figure: Figure, run: Run, window: Window) -> str:
    """The `svg` element, without what only a file needs, and with the page's font."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", dpi=_CRISP, facecolor="none", metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(f' id="{_LABEL}"', f' class="{_LABEL}"')
    text = _FACES.sub("system-ui, sans-serif", text)
    text = _COUNTED.sub("", text)
    said = html.escape(f"Latency of the requests of {run.scenario}, {window.name.lower()}")
    return _OPENING.sub(lambda found: _opened(found[1], said), text, count=1)


def _opened(box: str, said: str) -> str:
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} viewBox="{box}" role="img" aria-label="{said}">'
