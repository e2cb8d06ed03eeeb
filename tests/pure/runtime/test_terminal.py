"""Tables fit their terminal without cutting what matters, and plain text is plain."""

import io
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import pytest

from sidecar.cli import gpu
from sidecar.cli.canary import text_output as canary_text
from sidecar.cli.canary.files import Described
from sidecar.cli.operator import text_output as operator_text
from sidecar.cli.xds import text_output as xds_text
from sidecar.election.keys.history import Entry
from sidecar.gpu.api import GpuReading
from sidecar.health.canary.definition import Canary
from sidecar.health.canary.examine import Examined
from sidecar.health.canary.expectations import Finite
from sidecar.local import status_table
from sidecar.local.consul_view import InstanceView
from sidecar.local.processes.identity import identify
from sidecar.local.processes.state_file import MeshState, PartState
from sidecar.operator import plans
from sidecar.operator.inspection import PlaneRef, PlaneReply
from sidecar.operator.operator_client import History
from sidecar.runtime import terminal
from sidecar.triton.api import Answer
from sidecar.triton.tensors import tensor
from sidecar.v1 import control_plane_pb2 as v1
from sidecar.verdict.evidence import Finding, Layer, Level, Reason
from tests.support.operator_scene import NOW, entry, seen

WIDTHS = (40, 60, 80, 100, 120, 200)
# As Nomad registers a task's service; deploy/nomad puts "triton-" before the allocation.
IDS = tuple(
    f"_nomad-task-{allocation}-group-triton-triton-grpc"
    for allocation in (
        "5c1d7e0e-9f0a-4d8f-a3d1-0f6a4f3a2f11",
        "5c1d7e93-1b7c-4a5e-9b1d-0c7b1c1f2a00",
        "b00bfeed-9f0a-4d8f-a3d1-0f6a4f3a2f11",
    )
)
NODE = "envoy-gpu-cluster-7.prod.example.net"
TYPES = ("Cluster", "ClusterLoadAssignment", "Listener", "RouteConfiguration", "Runtime")
STATES = ("NACK", "pending", "behind", "ACK", "ACK")


def situation(wide: bool = False) -> None:
    operator_text.situation(
        seen(
            entry(IDS[0]),
            entry(IDS[1], "critical", "CRITICAL CANARY_WRONG_ANSWER: tinychat_unary: expected it"),
            entry(IDS[2], settled_at=f"{NOW + 3}", priority="200"),
            holder=IDS[0],
            last=IDS[0],
        ),
        wide,
    )


def history(wide: bool = False) -> None:
    cause = "switchover by root@vm: new kernel on gpu-1, which takes its time"
    moved = Entry("2026-11-24T07:36:12.135Z", IDS[1], cause, IDS[0], "files-1", 0.043, 2349, 0, 6.0)
    operator_text.history(History((moved,), ()), wide)


def foresight(wide: bool = False) -> None:
    now = seen(*map(entry, IDS), holder=None)
    operator_text.MoveLines(wide=wide).foresight(
        plans.preview_failover(now, plans.OrderRequest("o", "jane"))
    )


def clients() -> v1.ListClientsResponse:
    types = []
    for name, state in zip(TYPES, STATES, strict=True):
        behind = [v1.PendingResource(name="triton-chat", published_version="2" * 16,
                                     standing="STALE")]  # fmt: skip
        types.append(
            v1.ClientType(
                type_url=f"type.googleapis.com/envoy.config.x.v3.{name}",
                accepted_version="6e65c970a",
                pending=state == "pending",
                refused_version="1" * 16 if state == "NACK" else "",
                refused_reason="it is refused for a reason of some length" * 2,
                behind=behind if state == "behind" else [],
            )
        )
    client = v1.Client(node=NODE, protocol="state of the world", connected_seconds=9e3, types=types)
    return v1.ListClientsResponse(clients=[client])


PLANE = PlaneRef("xds-edge-1.prod.example.net", "10.0.0.9:18000")


def xds_clients(wide: bool = False) -> None:
    xds_text.clients((PlaneReply(PLANE, clients()),), wide)


def snapshot() -> v1.GetSnapshotResponse:
    endpoints = [v1.PublishedEndpoint(instance=each, address="10.0.0.1", port=8001, priority=0,
                                      weight=100, health="HEALTHY") for each in IDS]  # fmt: skip
    cluster = v1.PublishedCluster(name="triton-chat-production", endpoints=endpoints)
    return v1.GetSnapshotResponse(version="7", clusters=[cluster])


def xds_snapshot(wide: bool = False) -> None:
    xds_text.snapshots((PlaneReply(PLANE, snapshot()),), wide)


def xds_diff(wide: bool = False) -> None:
    xds_text.diff((PlaneReply(PLANE, clients()),), (PlaneReply(PLANE, snapshot()),), wide)


def local_status(wide: bool = False) -> None:
    parts = [
        PartState(each, "triton", "127.0.0.1:65535", Path("/log"), "running", None, time.time())
        for each in IDS
    ]
    me = identify(1)
    assert me
    views = {each: InstanceView(each, "critical", "standby", "") for each in IDS}
    terminal.show(
        status_table.table(MeshState("mesh", "running", me, (), (), tuple(parts)), views), wide
    )


MODEL = "llama-3-70b-instruct-tensorrt-llm"


def canary_results(wide: bool = False) -> None:
    wrong = Finding(Layer.CANARY, MODEL, Reason.CANARY_WRONG_ANSWER, "expected one, got another")
    canary_text.results([Examined(wrong, Answer({}, first=0.1, seconds=0.25))], wide)


def canary_listing(wide: bool = False) -> None:
    canary = Canary(MODEL, ({"text": tensor("BYTES", [1], ["Hello " * 9])},), (Finite("out"),))
    canary_text.listing(
        Described([canary], {MODEL: "/etc/triton-sidecar/canaries/llama.toml"}), wide
    )


# The output, the ids in it, and the other words that it must contain.
TABLES: dict[Callable[..., None], tuple[tuple[str, ...], tuple[str, ...]]] = {
    situation: (IDS, ("passing", "critical", "primary", "standby")),
    history: (IDS[1:2], ("2026-11-24T07:36:12.135Z",)),
    foresight: (IDS, ()),
    xds_clients: ((NODE,), (*TYPES, *STATES)),
    xds_snapshot: (IDS, ("HEALTHY",)),
    xds_diff: ((NODE, "triton-chat"), ()),
    local_status: (IDS, ("critical", "standby", "running")),
    canary_results: ((MODEL,), ("fails",)),
    canary_listing: ((MODEL,), ()),
}


def drawn(text: str) -> list[str]:
    """The lines of a boxed table."""
    return [line for line in text.splitlines() if set(line) & set("┃│┏└┡")]


def cells(text: str) -> Iterator[str]:
    """The words of a table, or of its line-by-line form."""
    for line in drawn(text) or text.splitlines():
        yield from line.replace("│", " ").split()


def names(cell: str, id: str) -> bool:
    """Whether a cell shows this id, whole or without its middle."""
    head, cut, tail = cell.partition("…")
    return cell == id or (bool(cut) and id.startswith(head) and id.endswith(tail))


class Terminal(io.StringIO):
    """Standard output, which may be a terminal."""

    def __init__(self, real: bool) -> None:
        super().__init__()
        self._real = real

    def isatty(self) -> bool:
        return self._real


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The output on a terminal of so many columns, or without a terminal."""

    def call(shown: Callable[[], None], columns: int | None, **environment: str) -> str:
        for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "COLUMNS"):
            monkeypatch.delenv(name, raising=False)
        given = {} if columns is None else {"COLUMNS": str(columns)}
        for name, value in {"TERM": "xterm", **given, **environment}.items():
            monkeypatch.setenv(name, value)
        with redirect_stdout(Terminal(columns is not None)) as output:
            shown()
        return output.getvalue()

    return call


Printed = Callable[..., str]


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("shown", TABLES)
def test_essential_columns_are_shown_at_any_width(
    printed: Printed, shown: Callable[[], None], columns: int
) -> None:
    text = printed(shown, columns, NO_COLOR="1")
    ids, words = TABLES[shown]
    assert [word for word in words if word not in text] == []
    # A table whose lines a terminal would break is useless.
    assert [line for line in drawn(text) if len(line) > columns] == []
    named = {id: {cell for cell in cells(text) if names(cell, id)} for id in ids}
    assert all(named.values())
    # Each shortened id is unambiguous.
    assert sum(map(len, named.values())) == len(set().union(*named.values()))
    short = any("…" in cell for shown in named.values() for cell in shown)
    assert text.count("--wide shows") == (short or "left out" in text)
    assert ("whole ids" in text) == short


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("shown", TABLES)
def test_wide_shows_everything_on_any_terminal(
    printed: Printed, shown: Callable[..., None], columns: int
) -> None:
    text = printed(partial(shown, wide=True), columns, NO_COLOR="1")
    assert text == printed(shown, None)
    assert [id for id in TABLES[shown][0] if id not in text] == []
    assert "--wide" not in text


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_state_is_next_to_its_resource(printed: Printed, columns: int) -> None:
    words = printed(xds_clients, columns, NO_COLOR="1").replace("│", " ").split()
    found = [word for word in words if word in TYPES or word in STATES][: 2 * len(TYPES)]
    assert found == [word for pair in zip(TYPES, STATES, strict=True) for word in pair]


def test_the_least_useful_column_is_dropped_first(printed: Printed) -> None:
    def short() -> None:
        operator_text.situation(
            seen(entry("triton-0"), entry("triton-1"), holder="triton-0"), False
        )

    left = {}
    for columns in WIDTHS:
        _, _, left[columns] = printed(short, columns).partition("left out for want of room: ")
    assert left == {
        40: "address, priority, standby, model set, not fit; --wide shows all\n",
        60: "address, priority, standby, model set; --wide shows all\n",
        80: "address, standby; --wide shows all\n",
        100: "address; --wide shows all\n",
        120: "",
        200: "",
    }


def test_ids_are_shortened_before_columns_are_dropped(printed: Printed) -> None:
    text = printed(xds_snapshot, 100, NO_COLOR="1")
    assert text.endswith("┘\n--wide shows whole ids\n")
    text = printed(situation, 140, NO_COLOR="1")
    assert ": address, standby; " in text
    assert ", with whole ids\n" in text


def test_without_a_terminal_nothing_is_left_out(printed: Printed) -> None:
    text = printed(situation, None, COLUMNS="80")  # even in a CI
    assert "left out" not in text
    (line,) = [line for line in text.splitlines() if IDS[1] in line and "│" in line]
    for word in ("10.0.0.1:8001", "critical", "standby", "CANARY_WRONG_ANSWER: tinychat_unary"):
        assert word in line


def readings(wide: bool = False) -> None:
    critical = Finding(Layer.GPU, "0", Reason.OK, "triton-0: 1 of 2", Level.CRITICAL)
    gpu._print([GpuReading("GPU-1", 0)], [critical], "550.1", wide)


@pytest.mark.parametrize("shown", [*TABLES, readings])
def test_plain_text_is_plain(printed: Printed, shown: Callable[[], None]) -> None:
    for text in (
        printed(shown, 120, NO_COLOR="1"),
        printed(shown, 120, TERM="dumb"),
        printed(shown, None),
        printed(shown, None, FORCE_COLOR="1"),
    ):
        assert text
        assert "\x1b" not in text


def test_a_dumb_terminal_has_its_own_width(printed: Printed) -> None:
    assert printed(situation, 200, TERM="dumb") == printed(situation, 200, NO_COLOR="1")


def test_a_terminal_has_colours_and_nothing_is_highlighted(printed: Printed) -> None:
    text = printed(situation, 120)
    assert "\x1b[31mcritical" in text
    for each in IDS:
        assert each in text  # no number in it is bold


def test_gpus_that_do_not_fit_are_listed_line_by_line() -> None:
    readings = [GpuReading(f"GPU-8932f937-d72c-4106-c12f-20bd9faed9f{n}", n) for n in range(8)]
    assert [len(each.columns) - 1 for each in gpu.grids(readings, None)] == [8]
    assert [len(each.columns) - 1 for each in gpu.grids(readings, 80)] == [2, 2, 2, 2]
    assert [len(each.columns) - 1 for each in gpu.grids(readings, 20)] == [1] * 8
    assert list(gpu.grids([], 80)) == []
