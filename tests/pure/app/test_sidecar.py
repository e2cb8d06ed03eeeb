"""The wiring of a sidecar: what its parts call on each other, on fakes and a virtual clock."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from sidecar.app.sidecar import Clients, Sidecar
from sidecar.consul.api import QueryResult as ConsulAnswer
from sidecar.consul.api import ServiceEntry
from sidecar.control_planes import rpc
from sidecar.events import Event
from sidecar.gpu.client import Gpu
from sidecar.lifecycle import cancel_all
from sidecar.models.loaded_set_file import LoadedSetFile
from sidecar.notify.documents import Sender
from sidecar.notify.notifier import Notifier
from sidecar.notify.rules import HookRules
from sidecar.runtime.errors import ConfigError, Unavailable
from sidecar.settings import SidecarSettings
from sidecar.triton import python_stubs
from sidecar.triton.api import Answer, ModelDescription, Statistics, TensorSpec
from sidecar.triton.tensors import tensor
from sidecar.v1.control_plane_pb2 import GetFailuresResponse
from sidecar.verdict.evidence import Reason
from tests.support.consul_model import FakeConsul
from tests.support.fake_triton import FakeModel, FakeTriton
from tests.support.rewording import any_words as any_words
from tests.support.virtual_clock import VirtualClock

UNSEEN = "1 control planes"

pytestmark = pytest.mark.files

SERVICE, PLANE = "triton", "triton-sidecar-xds"
SILENT, BLIND = None, GetFailuresResponse(measured=False)
PATIENCE = 60.0  # seconds; machines are shared
NUMBERS = TensorSpec("y", "FP32", (2,))


class Planes:
    """Control planes in Consul, and each one's report about clients' requests; None is no answer.

    With `filtered` the token may not see all that are registered.
    """

    def __init__(self, consul: FakeConsul) -> None:
        self.reports: list[GetFailuresResponse | None] = []
        self.filtered = False
        self._consul, self._shown = consul, consul.health_service
        consul.health_service = self._seen  # type: ignore[method-assign]

    async def report(self, *reports: GetFailuresResponse | None) -> None:
        self.reports = list(reports)
        place = {"Address": "127.0.0.1"}
        for port, name in enumerate([SERVICE, *[PLANE] * len(reports)]):
            body = {"ID": f"{name}-{port}", "Name": name, "Port": port, **place}
            await self._consul.register_service(body)

    async def _seen(self, name: str, **how: Any) -> ConsulAnswer[tuple[ServiceEntry, ...]]:
        answer = await self._shown(name, **how)
        return replace(answer, filtered=self.filtered) if name == PLANE else answer

    @asynccontextmanager
    async def stub_at(self, address: str) -> AsyncIterator["Planes.Stub"]:
        yield self.Stub(self.reports[int(address.rpartition(":")[2]) - 1])

    class Stub:
        def __init__(self, report: GetFailuresResponse | None) -> None:
            self._report = report

        async def GetFailures(self, request: object, *, timeout: float) -> GetFailuresResponse:
            if self._report is None:
                raise grpc.RpcError("failed to connect")
            return self._report


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
        clients = Clients(FakeTriton(self.clock, self.model), self.consul, Gpu())
        notifier = Notifier(HookRules(), {}, Sender("t", "a"), self.clock, self.events.append)
        self.more: dict[str, Path] = {}  # of [triton]
        self._clients, self._notifier = clients, notifier
        self.sidecar = self.build()

    def build(self) -> Sidecar:
        return Sidecar(
            self.settings,
            self.settings(),
            self._clients,
            self._notifier,
            self.clock,
            self.events.append,
        )

    def settings(self) -> SidecarSettings:
        canary = {
            "inputs": [{"name": "x", "datatype": "FP32", "file": self.question}],
            "expect": [{"output": "y", "allclose": self.expected}],
        }
        return SidecarSettings.model_validate(
            {
                "triton": {"models": ["m"], **self.more},
                "canary": {"m": canary},
                "gpu": {"enabled": "off"},
            }
        )

    def write(self, path: Path, numbers: list[float]) -> None:
        np.save(path, np.array(numbers, np.float32))

    async def proof(self) -> str:
        """Why the instance may not be a candidate, as the election queries it."""
        return await self.sidecar._ports().ask()

    def asked(self) -> list[float]:
        """What the model was last sent."""
        return list(self.model.asked[-1].steps[0]["x"].array)


def _named(name: str) -> TensorSpec:
    return TensorSpec(name, "FP32", (2,))


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene(tmp_path)
    monkeypatch.setattr(rpc, "stub_at", made.planes.stub_at)
    return made


@pytest.mark.parametrize("which", ["question", "expected"])
@pytest.mark.parametrize("broken", [b"", None])
async def test_a_broken_canary_file_does_not_affect_the_running_canary(
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


async def test_changed_canary_files_apply_after_a_reload(scene: Scene) -> None:
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
    ("reports", "counted"),
    [
        ([measured(1200, 3)], (1200, 3)),
        ([measured(1200, 3), measured(40, 1)], (1240, 4)),
        ([measured(0, 0)], (0, 0)),
        # One that does not count now has not counted before either.
        ([measured(1200, 3), BLIND], (1200, 3)),
        ([BLIND], None),
        ([], None),
    ],
)
async def test_client_requests_are_counted_by_the_control_planes(
    scene: Scene, reports: list[GetFailuresResponse | None], counted: tuple[int, int] | None
) -> None:
    await scene.planes.report(*reports)
    assert await scene.sidecar._ports().count(8.0) == counted


@pytest.mark.parametrize(
    "reports", [[SILENT], [SILENT, SILENT], [SILENT, measured(1200, 3)], [SILENT, BLIND]]
)
async def test_a_control_plane_that_does_not_answer_postpones_the_count(
    scene: Scene, reports: list[GetFailuresResponse | None]
) -> None:
    await scene.planes.report(*reports)
    with pytest.raises(Unavailable, match="control planes do not answer"):
        await scene.sidecar._ports().count(8.0)


@pytest.mark.parametrize("reports", [[], [measured(1200, 3)], [BLIND]])
async def test_control_planes_hidden_by_acls_postpone_the_count(
    scene: Scene, reports: list[GetFailuresResponse | None]
) -> None:
    await scene.planes.report(*reports)
    scene.planes.filtered = True
    with pytest.raises(Unavailable, match=UNSEEN):
        await scene.sidecar._ports().count(8.0)


async def test_an_empty_list_without_proof_postpones_the_count(scene: Scene) -> None:
    with pytest.raises(Unavailable, match=UNSEEN):  # not even the sidecar itself is listed
        await scene.sidecar._ports().count(8.0)


async def test_the_current_counters_are_saved_while_it_runs_and_when_it_stops(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(python_stubs, "_is_here", lambda host: False)  # no process scan
    state, models = tmp_path / "state.json", tmp_path / "models"
    (models / "m" / "1").mkdir(parents=True)
    scene.more = {"repository": models, "state": state}
    scene.model.statistics = Statistics("m", "1", 1, executions=1)
    sidecar = scene.build()
    wanted = {"read the model set", "save the model set"}
    optional = {"read the model set": sidecar._model_set.run, **sidecar._optional_loops()}
    loops = {**sidecar._prober.loops(), **{name: optional[name] for name in wanted}}
    tasks = [asyncio.create_task(loop()) for loop in loops.values()]

    def saved_successes() -> int:
        memory = LoadedSetFile(state, sidecar._instance.id, scene.clock, lambda _: None).read()
        return sum(each.successes for each in memory.counted.values())

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await scene.clock.advance(1)
                await asyncio.sleep(0.001)

    try:
        await until(lambda: saved_successes() >= 1)
        load = sidecar._prober.loads.version
        scene.model.count(successes=1000, executions=1000)
        await until(lambda: saved_successes() > 1000)
        scene.model.count(successes=1000, executions=1000)
        await until(lambda: sidecar._prober.counted["m"].successes > 2000)
        [step] = sidecar._save_steps()
        await step.run()
        assert saved_successes() > 2000
        assert sidecar._prober.loads.version == load
    finally:
        await cancel_all(tasks)


async def test_without_triton_state_nothing_is_saved(scene: Scene) -> None:
    assert "save the model set" not in scene.sidecar._optional_loops()
    assert list(scene.sidecar._save_steps()) == []


async def test_a_deregistration_is_retried_while_consul_does_not_answer(scene: Scene) -> None:
    own = scene.sidecar._instance.id
    await scene.consul.register_service(
        {"ID": own, "Name": SERVICE, "Address": "127.0.0.1", "Port": 1}
    )
    deregister, failures = scene.consul.deregister_service, [Unavailable("Consul: no answer")] * 3

    async def flaky(service_id: str) -> None:
        if failures:
            raise failures.pop()
        await deregister(service_id)

    scene.consul.deregister_service = flaky  # type: ignore[method-assign]
    server = grpc.aio.server()
    steps = {step.name: step for step in scene.sidecar._stop(server, ())}
    stopping = asyncio.ensure_future(steps["deregister"].run())
    await scene.clock.advance(4)
    assert stopping.done()
    assert await scene.consul.agent_service(own) is None


async def test_a_model_that_may_not_be_used_is_published_and_does_not_count_for_a_candidate(
    scene: Scene,
) -> None:
    scene.model.reply = Answer({"y": tensor("FP32", [2], [7.0, 7.0])})
    assert Reason.CANARY_WRONG_ANSWER in await scene.proof()
    sidecar = scene.sidecar
    publishing = asyncio.create_task(sidecar._publish_weight())
    await scene.clock.advance(0.1)
    sidecar._publisher._nudge.clear()
    verdict = sidecar._assessment.verdict
    verdict.set(replace(verdict.value, unusable=(("m", Reason.CANARY_WRONG_ANSWER),)))
    await scene.clock.advance(0.1)
    assert sidecar._publisher._nudge.is_set()
    assert sidecar._registration()[1].unusable == (("m", "CANARY_WRONG_ANSWER"),)
    assert await scene.proof() == ""
    await cancel_all([publishing])
