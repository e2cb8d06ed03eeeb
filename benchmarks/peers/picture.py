"""The picture of docs/comparison.md: requests that failed or were wrong, by scenario and design.

Needs the extra `drill`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.peers.design import DESIGNS, OURS
from benchmarks.peers.faults import FAULTS, Fault
from benchmarks.peers.figures import Seen
from benchmarks.peers.store import Store

_OURS, _PEER, _INK = "#b04a00", "#5b7f9f", "#1a1a1a"
_COLUMNS = 3
_WIDE, _HIGH = 3.6, 2.9  # inches of one scenario
_FIXED: Any = {"svg.hashsalt": "peers", "svg.fonttype": "none", "font.family": "sans-serif"}


def draw(store: Store, path: Path) -> None:
    """Draw all scenarios that were run, into an SVG."""
    shown = [(fault, found) for fault in FAULTS if (found := _found(store, fault))]
    if not shown:
        return
    rows = -(-len(shown) // _COLUMNS)
    with mpl.rc_context(_FIXED):
        figure = Figure((_WIDE * _COLUMNS + 1.2, _HIGH * rows), layout="constrained")
        panels = list(figure.subplots(rows, _COLUMNS, sharey=True, squeeze=False).flat)
        for panel, (fault, found) in zip(panels, shown, strict=False):
            _scenario(panel, fault, found)
        for panel in panels[len(shown) :]:
            panel.set_axis_off()
        figure.savefig(path, format="svg", metadata={"Date": None})


def _found(store: Store, fault: Fault) -> list[tuple[str, Seen | None]]:
    results = [(one.name, store.get(one, fault)) for one in DESIGNS]
    if not any(result and result.seen for _, result in results):
        return []
    return [(name, result.seen if result else None) for name, result in reversed(results)]


def _scenario(panel: Axes, fault: Fault, found: Sequence[tuple[str, Seen | None]]) -> None:
    shares = [100 * (one.failed + one.wrong) / one.sent if one else 0.0 for _, one in found]
    names = [name.replace("/", ", ").replace("_", " ") for name, _ in found]
    colours = [_OURS if name.startswith(OURS) else _PEER for name, _ in found]
    panel.barh(names, shares, color=colours, height=0.7)
    for place, (_, one) in enumerate(found):
        said = "not measured" if one is None else f"{one.failed + one.wrong}"
        panel.annotate(
            said, (shares[place], place), (3, 0), textcoords="offset points", va="center",
            fontsize=7, color=_INK,
        )  # fmt: skip
    panel.set_title(fault.title, fontsize=9, loc="left")
    panel.set_xlim(0, max(1.0, max(shares)) * 1.25)
    panel.set_xlabel("% of requests failed or wrong", fontsize=7)
    panel.tick_params(labelsize=7)
    panel.spines[["top", "right"]].set_visible(False)
