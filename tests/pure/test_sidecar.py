"""What the objects of a sidecar ask of each other, on fakes and a clock turned by hand."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from sidecar import control_planes
from sidecar.app import Doors, Sidecar
from sidecar.consul_api import Answer as ConsulAnswer
from sidecar.consul_api import ServiceEntry
from sidecar.errors import ConfigError, Unavailable
from sidecar.events import Event
from sidecar.gpu import Gpu
from sidecar.notify.documents import Sender
from sidecar.notify.notifier import Notifier
from sidecar.settings import SidecarSettings
from sidecar.settings.notify import HooksSettings
from sidecar.triton_api import Answer, ModelDescription, TensorSpec
from sidecar.triton_tensors import tensor
from sidecar.v1.control_plane_pb2 import GetFailuresResponse
from tests.consul_model import FakeConsul
from tests.fake_triton import FakeModel, FakeTriton
from tests.virtual_clock import VirtualClock

SERVICE, PLANE = "triton", "triton-sidecar-xds"
SILENT, BLIND = None, GetFailuresResponse(measured=False)
NUMBERS = TensorSpec("y", "FP32", (2,))


class Planes:
    """Control planes in Consul, and what each says of the requests of clients; None says nothing.

    With `filtered` the token may not see all that are registered.
    """

    def __init__(self, consul: FakeConsul) -> None:
        self.said: list[GetFailuresResponse | None] = []
        self.filtered = False
        self._consul, self._shown = consul, consul.health_service
        consul.health_service = self._seen  # type: ignore[method-assign]

    async def say(self, *said: GetFailuresResponse | None) -> None:
        self.said = list(said)
        place = {"Address": "127.0.0.1"}
        for port, name in enumerate([SERVICE, *[PLANE] * len(said)]):
            body = {"ID": f"{name}-{port}", "Name": name, "Port": port, **place}
            await self._consul.register_service(body)

    async def _seen(self, name: str, **how: Any) -> ConsulAnswer[tuple[ServiceEntry, ...]]:
        answer = await self._shown(name, **how)
        return replace(answer, filtered=self.filtered) if name == PLANE else answer

    @asynccontextmanager
    async def stub_at(self, address: str) -> AsyncIterator["Planes.Stub"]:
        yield self.Stub(self.said[int(address.rpartition(":")[2]) - 1])

    class Stub:
        def __init__(self, said: GetFailuresResponse | None) -> None:
            self._said = said

        async def GetFailures(self, request: object, *, timeout: float) -> GetFailuresResponse:
            if self._said is None:
                raise grpc.RpcError("failed to connect")
            return self._said


class Scene:
    """A sidecar that does not run. Its canary names two files; its model answers [1, 2]."""

    def __init__(self, folder: Path) -> None:
        self.question, self.expected = folder / "x.npy", folder / "y.npy"
        self.write(self.question, [1.0, 2.0])
        self.write(self.expected, [1.0, 2.0])
        self.clock = VirtualClock()
        described = ModelDescription("m", ("1",), inputs=(_named("x"),), outputs=(NUMBERS,))
        reply = Answer({"y": tensor("FP32", [2], [1.0, 2.0])})
        self.model = FakeModel(described, reply)
        self.events: list[Event] = []
        self.consul = FakeConsul(clock=self.clock)
        self.planes = Planes(self.consul)
        doors = Doors(FakeTriton(self.clock, self.model), self.consul, Gpu())
        notifier = Notifier(HooksSettings(), {}, Sender("t", "a"), self.clock, self.events.append)
        self.sidecar = Sidecar(
            self.settings, self.settings(), doors, notifier, self.clock, self.events.append
        )

    def settings(self) -> SidecarSettings:
        canary = {
            "inputs": [{"name": "x", "datatype": "FP32", "file": self.question}],
            "expect": [{"output": "y", "allclose": self.expected}],
        }
        return SidecarSettings.model_validate(
            {"triton": {"models": ["m"]}, "canary": {"m": canary}, "gpu": {"enabled": "off"}}
        )

    def write(self, path: Path, numbers: list[float]) -> None:
        np.save(path, np.array(numbers, np.float32))

    async def proof(self) -> str:
        """What stands against the instance as a candidate, as the election asks."""
        return await self.sidecar._surroundings().ask()

    def asked(self) -> list[float]:
        """What the model was asked last."""
        return list(self.model.asked[-1].steps[0]["x"].array)


def _named(name: str) -> TensorSpec:
    return TensorSpec(name, "FP32", (2,))


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene(tmp_path)
    monkeypatch.setattr(control_planes, "stub_at", made.planes.stub_at)
    return made


@pytest.mark.parametrize("which", ["question", "expected"])
@pytest.mark.parametrize("broken", [b"", None])
async def test_a_file_that_is_broken_refuses_no_proof(
    scene: Scene, which: str, broken: bytes | None
) -> None:
    path: Path = getattr(scene, which)
    if broken is None:
        path.unlink()
    else:
        path.write_bytes(broken)
    assert await scene.proof() == ""
    with pytest.raises(ConfigError, match=path.name):
        await scene.sidecar._reload()
    assert await scene.proof() == ""


async def test_what_is_written_counts_from_the_reload_on(scene: Scene) -> None:
    scene.write(scene.question, [3.0, 4.0])
    scene.write(scene.expected, [9.0, 9.0])
    assert await scene.proof() == ""
    assert scene.asked() == [1.0, 2.0]
    await scene.sidecar._reload()
    assert "CANARY_WRONG_ANSWER" in await scene.proof()
    assert scene.asked() == [3.0, 4.0]


def measured(requests: int, failures: int) -> GetFailuresResponse:
    return GetFailuresResponse(measured=True, requests=requests, failures=failures)


@pytest.mark.parametrize(
    ("said", "counted"),
    [
        ([measured(1200, 3)], (1200, 3)),
        ([measured(1200, 3), measured(40, 1)], (1240, 4)),
        ([measured(0, 0)], (0, 0)),
        # Who says that it does not count will not tell later either.
        ([measured(1200, 3), BLIND], (1200, 3)),
        ([BLIND], None),
        ([], None),
    ],
)
async def test_what_clients_sent_is_what_the_control_planes_have_counted(
    scene: Scene, said: list[GetFailuresResponse | None], counted: tuple[int, int] | None
) -> None:
    await scene.planes.say(*said)
    assert await scene.sidecar._surroundings().count(8.0) == counted


@pytest.mark.parametrize(
    "said", [[SILENT], [SILENT, SILENT], [SILENT, measured(1200, 3)], [SILENT, BLIND]]
)
async def test_a_control_plane_that_does_not_answer_leaves_the_count_for_later(
    scene: Scene, said: list[GetFailuresResponse | None]
) -> None:
    await scene.planes.say(*said)
    with pytest.raises(Unavailable, match="control planes do not answer"):
        await scene.sidecar._surroundings().count(8.0)


@pytest.mark.parametrize("said", [[], [measured(1200, 3)], [BLIND]])
async def test_control_planes_that_may_not_be_seen_leave_the_count_for_later(
    scene: Scene, said: list[GetFailuresResponse | None]
) -> None:
    await scene.planes.say(*said)
    scene.planes.filtered = True
    with pytest.raises(Unavailable, match="1 control planes"):
        await scene.sidecar._surroundings().count(8.0)


async def test_an_empty_list_that_proves_nothing_leaves_the_count_for_later(scene: Scene) -> None:
    with pytest.raises(Unavailable, match="1 control planes"):  # not even the own instance is shown
        await scene.sidecar._surroundings().count(8.0)
