"""Fixtures for all tests."""

from collections.abc import Iterator

import pytest

from tests.consul_agent import ConsulAgent


@pytest.fixture(scope="session")
def consul_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    """A Consul agent that many tests share, each with services of its own."""
    with ConsulAgent.running(tmp_path_factory.mktemp("consul")) as agent:
        yield agent
