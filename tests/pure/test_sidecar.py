"""What the objects of a sidecar ask of each other, on fakes and a clock turned by hand."""

from pathlib import Path

import numpy as np
import pytest

from sidecar import control_planes
from sidecar.app import Doors, Sidecar
from sidecar.control_planes import Failures
from sidecar.errors import ConfigError, Unavailable
from sidecar.events import Event
from sidecar.gpu import Gpu
from sidecar.notify.documents import Sender
from sidecar.notify.notifier import Notifier
from sidecar.settings import SidecarSettings
from sidecar.settings.notify import HooksSettings
from sidecar.triton_api import Answer, ModelDescription, TensorSpec
from sidecar.triton_tensors import tensor
from tests.consul_model import FakeConsul
from tests.fake_triton import FakeModel, FakeTriton
from tests.virtual_clock import VirtualClock

NUMBERS = TensorSpec("y", "FP32", (2,))


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
        doors = Doors(FakeTriton(self.clock, self.model), FakeConsul(clock=self.clock), Gpu())
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

    def tell(self, monkeypatch: pytest.MonkeyPatch, told: Failures | None) -> None:
        """What the control planes say of the requests of clients."""

        async def failures(*_: object) -> Failures | None:
            return told

        monkeypatch.setattr(control_planes, "failures", failures)

    def asked(self) -> list[float]:
        """What the model was asked last."""
        return list(self.model.asked[-1].steps[0]["x"].array)


def _named(name: str) -> TensorSpec:
    return TensorSpec(name, "FP32", (2,))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


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


@pytest.mark.parametrize(
    ("told", "counted"), [(Failures(1200, 3), (1200, 3)), (Failures(0, 0), (0, 0)), (None, None)]
)
async def test_what_clients_sent_is_what_the_control_planes_have_counted(
    scene: Scene,
    monkeypatch: pytest.MonkeyPatch,
    told: Failures | None,
    counted: tuple[int, int] | None,
) -> None:
    scene.tell(monkeypatch, told)
    assert await scene.sidecar._surroundings().count(8.0) == counted


async def test_a_control_plane_that_does_not_tell_leaves_the_count_for_later(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.tell(monkeypatch, Failures(1200, 3, unknown=1))
    with pytest.raises(Unavailable, match="1 control planes"):
        await scene.sidecar._surroundings().count(8.0)
