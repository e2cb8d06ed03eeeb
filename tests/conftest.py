"""Fixtures for all tests."""

import os
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

from sidecar.local.programs.parts import consul_release, find
from sidecar.runtime.errors import PartMissing
from sidecar.telemetry import logs
from tests.support.consul_agent import ConsulAgent

pytest_plugins = ("tests.support.mesh.plugin",)

# Their assertions show what they compared, whoever imports them first.
pytest.register_assert_rewrite("tests.support.mesh.mesh", "tests.support.mesh.mesh_outside")

# The folders of tests that start a Consul.
_WITH_CONSUL = ("tests/contract/", "tests/integration/", "tests/chaos/")


@pytest.fixture(scope="session")
def consul_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    """A Consul agent that many tests share, each with services of its own."""
    with ConsulAgent.running(tmp_path_factory.mktemp("consul")) as agent:
        yield agent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that no worker is left alone with it at the end."""
    items.sort(key=_turn)


def pytest_runtest_teardown() -> None:
    """Leave no test the log of another: commands that are tried in this process set one up."""
    logs.finish()  # a thread writes it, to whatever standard error is by then
    structlog.reset_defaults()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which Consul has been tried: CONSUL_BIN may name any. `-q` shows no header."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    if not any(str(getattr(r, "nodeid", "")).startswith(_WITH_CONSUL) for r in reports):
        return
    try:
        program = find("consul")
        tried = f"{consul_release(program)} ({program})"
    except PartMissing as error:
        tried = str(error)
    terminalreporter.write_line(f"Consul: {tried}")


def _turn(item: pytest.Item) -> int:
    # What takes a whole core stands beside other arithmetic, not beside meshes: a sidecar that gets
    # no turn for a second is taken for dead by Consul.
    first, after = ("test_cluster_faults.py", "test_mesh_faults.py"), "test_decision_simulated.py"
    if item.path.name in first:
        return first.index(item.path.name)
    if not {"integration", "chaos"}.isdisjoint(item.path.parts):
        return len(first)
    return len(first) + (1 if item.path.name == after else 2)


# How long an example takes is no matter of right or wrong: machines are shared. The examples are
# the same each time, so that a change is what makes a test fail; HYPOTHESIS_ANEW=1 draws others.
settings.register_profile(
    "shared",
    deadline=None,
    derandomize=not os.environ.get("HYPOTHESIS_ANEW"),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("shared")
