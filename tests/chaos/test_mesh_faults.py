"""Every fault that can be staged: the verdict, its reason, and its effect on clients."""

from collections.abc import Iterator

import pytest

from tests.support.faults.faults import (
    BROKEN,
    CLIENTS,
    FAULTS,
    MODELS,
    QUEUED,
    Fault,
    rarely_failing,
)
from tests.support.faults.outcome import inject
from tests.support.mesh.mesh import LiveMesh
from tests.support.mesh.mesh_outside import ended_at_once, sidecar
from tests.support.mesh.pressure import freezes, overload, pauses, pressed
from tests.support.soak import SOAK, soak, times

pytestmark = pytest.mark.integration

# Each variant, and the fault that has the same reason and takes the same path through the code.
VARIANTS = {
    "NaN": "wrong answer",
    "degenerate text": "empty stream",
    "error one time in ten": "error one time in three",
    "200 queued requests": "overload is no illness",
    "all stubs SIGKILLed": "stub process SIGKILLed",
    "all stubs SIGSTOPped": "hang in execute",
    "accepted, never answered": "tritonserver SIGSTOPped",
    "canary: wrong datatype": "canary: unknown tensor",
    "model loads for 20 s": "model unloaded",
}
assert VARIANTS.keys() <= {fault.name for fault in FAULTS}
INTERMITTENT = rarely_failing(VARIANTS["error one time in ten"], 1 / 3)
_LASTS = 3.0 if SOAK else 0.0  # seconds after the verdict, before some more answers


def staged(fault: Fault) -> object:
    """A fault as a parameter; only `make test-soak` runs the variants."""
    return pytest.param(fault, id=fault.name, marks=[soak] if fault.name in VARIANTS else [])


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMesh]:
    """A mesh that serves only the faulty models; a short hold lets it recover before each fault."""
    folder = tmp_path_factory.mktemp("mesh")
    flags = [f"--models={model}" for model in MODELS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_SIDECAR_HEALTH__MAX_HOLD", "2s")
        sidecar("local", "up", "--detach", f"--dir={folder}", "--only-models", *flags, check=True)
    try:
        yield LiveMesh(folder)
    finally:
        ended_at_once(folder)


@pytest.mark.parametrize("fault", [staged(fault) for fault in (*FAULTS, INTERMITTENT)])
async def test_a_staged_fault_gives_its_verdict_and_fails_no_later_request(
    mesh: LiveMesh, fault: Fault
) -> None:
    outcome = await inject(mesh, fault, lasts=_LASTS)
    assert outcome.trouble == []
    assert outcome.run.status == "passed"


async def test_a_sidecar_does_not_start_with_an_invalid_canary(mesh: LiveMesh) -> None:
    valid = mesh.folder / mesh.now.instances[0].id / "sidecar.toml"
    broken = mesh.folder / "broken.toml"
    broken.write_text(valid.read_text().replace(*BROKEN))
    for mode in ((), ("--check-config",)):
        done = sidecar("run", f"--config={broken}", *mode)
        assert done.returncode == 2
        assert done.stdout == ""
        [line] = done.stderr.splitlines()
        assert line.startswith(f"triton-sidecar: {broken}: expected TOML")


async def test_overload_does_not_make_an_instance_unhealthy(mesh: LiveMesh) -> None:
    lengths: list[int] = []
    run = await pressed(mesh, overload(QUEUED, times(8, soaking=25), lengths), unary=CLIENTS)
    assert run.violations == ()
    assert run.status == "passed"
    assert min(lengths) > 0


async def test_short_freezes_do_not_make_an_instance_unhealthy(mesh: LiveMesh) -> None:
    run = await pressed(mesh, freezes(pauses(3, seed=7), between=2.0), unary=CLIENTS)
    assert run.violations == ()
    assert run.status == "passed"
