"""Because of which models Triton is not ready: only the served ones count."""

import pytest

from sidecar.health.readiness import unserved_not_ready
from sidecar.runtime.errors import DeadlineExceeded, Rejected
from sidecar.triton.api import IndexEntry
from sidecar.verdict.evidence import Layer, Reason
from sidecar.verdict.verdict_line import State
from tests.support.prober_bench import canary, model, probing


@pytest.mark.parametrize(
    ("states", "names"),
    [
        ([("chat", "READY"), ("broken", "UNAVAILABLE")], "broken"),
        ([("chat", "READY"), ("z", "UNAVAILABLE"), ("b", "LOADING"), ("c", "UNLOADING")],
         "b, c, z"),
        ([("chat", "READY"), ("chat", "UNAVAILABLE")], "chat"),
        ([("chat", "READY"), ("chat", "LOADING")], ""),
        ([("chat", "READY"), ("chat", "LOADING"), ("broken", "UNAVAILABLE")], ""),
        ([("chat", "UNAVAILABLE"), ("broken", "UNAVAILABLE")], ""),
        ([("chat", "UNLOADING")], ""),
        ([("chat", "READY"), ("never", "")], ""),
        ([("chat", "READY")], ""),
        ([], ""),
    ],
)  # fmt: skip
def test_which_models_make_triton_not_ready(states: list[tuple[str, str]], names: str) -> None:
    index = [
        IndexEntry(name, str(number), state, "") for number, (name, state) in enumerate(states)
    ]
    assert unserved_not_ready(index, {"chat"}) == names


async def test_an_unserved_model_that_never_loads_changes_nothing() -> None:
    given = {"chat": canary("chat")}
    async with probing(model(), model("broken"), canaries=given, served=("chat",)) as bench:
        broken = bench.triton.models["broken"]
        broken.ready = broken.loaded = bench.triton.ready = False
        await bench.pass_(30)
        assert bench.verdicts == ["passing OK"]
        [found] = [each for each in bench.evidence if each.layer is Layer.READY]
        assert found.remark == "models that are not served are not ready: broken"


async def test_without_access_to_the_index_not_ready_is_a_warning() -> None:
    async with probing() as bench:
        await bench.pass_(2)
        bench.triton.ready = False
        bench.triton.index_error = Rejected("UNIMPLEMENTED: no")
        await bench.pass_(5)
        assert bench.verdict.state is State.WARNING
        assert bench.verdict.reason is Reason.SERVER_NOT_READY
        assert bench.verdict.detail.endswith("cannot tell for which model: UNIMPLEMENTED: no")


async def test_a_serving_triton_without_a_ready_answer_in_time_is_a_warning() -> None:
    """It must not be restarted for that, and a model that is not served does not excuse it."""
    given = {"chat": canary("chat")}
    async with probing(model(), model("broken"), canaries=given, served=("chat",)) as bench:
        await bench.pass_(2)
        bench.triton.models["broken"].ready = bench.triton.models["broken"].loaded = False
        bench.triton.ready_error = DeadlineExceeded("no answer in time")
        await bench.pass_(60)
        assert bench.verdicts == ["passing OK", "warning SERVER_NOT_READY"]
        assert bench.verdict.detail == "ready: no answer in time"
