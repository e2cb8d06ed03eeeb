"""Fixtures for all tests."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.consul_agent import ConsulAgent


@pytest.fixture(scope="session")
def consul_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    """A Consul agent that many tests share, each with services of its own."""
    with ConsulAgent.running(tmp_path_factory.mktemp("consul")) as agent:
        yield agent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that no worker is left alone with it at the end."""
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    long = ("test_election_simulator.py", "test_cluster_faults.py", "test_mesh_faults.py")
    if item.path.name in long:
        return long.index(item.path.name)
    return len(long) if item.path.parent.name == "integration" else len(long) + 1


# How long an example takes is no matter of right or wrong: machines are shared.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")
