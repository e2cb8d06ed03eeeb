"""The mesh that the tests of a file share, and its logs when one of them fails."""

from collections.abc import Generator, Iterator
from typing import Any

import pytest

from sidecar.local.load import STREAM, UNARY
from tests.support.mesh.mesh import LiveMesh
from tests.support.mesh.mesh_outside import ROOT, ended_at_once, sidecar

_MODELS = ROOT / "triton_models"
# The tests of a file make the same instances unhealthy again and again. Were that a relapse, each
# would have to wait longer than the one before.
_NO_RELAPSES = {"TRITON_SIDECAR_HEALTH__MAX_HOLD": "2s"}


@pytest.fixture(scope="module")
def mesh(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveMesh]:
    """A mesh that the tests of a file share.

    Its `MESH` names further flags of `local up`, its `ENVIRONMENT` settings of all sidecars. It
    serves what load asks alone, and so starts sooner; or every demo model, if `ALL_MODELS` says so.
    """
    flags = (*getattr(request.module, "MESH", ()),)
    if not getattr(request.module, "ALL_MODELS", False):
        flags += ("--only-models", *(f"--models={_MODELS / name}" for name in (UNARY, STREAM)))
    folder = tmp_path_factory.mktemp("mesh")
    with pytest.MonkeyPatch.context() as patch:
        own = getattr(request.module, "ENVIRONMENT", {})
        for name, value in {**_NO_RELAPSES, **own}.items():
            patch.setenv(name, value)
        sidecar("local", "up", "--detach", f"--dir={folder}", *flags, check=True)
    try:
        yield LiveMesh(folder)
    finally:
        ended_at_once(folder)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the ends of the mesh's logs with a failure."""
    report = yield
    live: Any = getattr(item, "funcargs", {}).get("mesh")
    if report.failed and isinstance(live, LiveMesh):
        report.sections += [(f"end of the log of {part}", text) for part, text in live.tails()]
    return report
