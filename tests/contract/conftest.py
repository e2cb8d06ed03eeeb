"""The Consul, real or modelled, and the real Triton that the tests of this folder share."""

from collections.abc import AsyncIterator, Iterator

import pytest

from sidecar.consul.access import ConsulAccess
from sidecar.consul.api import ConsulApi
from sidecar.consul.client import Consul
from tests.support.consul_agent import ConsulAgent
from tests.support.consul_model import FakeConsul, Generation
from tests.support.guarded_consul import Guarded
from tests.support.soak import soak
from tests.support.triton_server import TritonServer

MODELS = ("echo_types", "counter", "tinychat", "tinychat_unary", "embedder")


@pytest.fixture(params=["agent", *Generation], ids=str)
async def consul(request: pytest.FixtureRequest) -> AsyncIterator[ConsulApi]:
    """A client of the Consul that was found, whatever its version, or the model of a generation.

    A module whose subject is not Consul and whose tests take long sets `AGENT_IS_ENOUGH`.
    """
    if request.param == "agent":
        agent: ConsulAgent = request.getfixturevalue("consul_agent")
        async with Consul(ConsulAccess(address=agent.http)) as client:
            yield client
    else:
        yield FakeConsul(generation=request.param)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as `soak` what such a module would repeat on the models."""
    for item in items:
        given = item.callspec.params if hasattr(item, "callspec") else {}
        enough = getattr(getattr(item, "module", None), "AGENT_IS_ENOUGH", False)
        if enough and isinstance(given.get("consul"), Generation):
            item.add_marker(soak)


@pytest.fixture
def generation(request: pytest.FixtureRequest, consul: ConsulApi) -> Generation:
    """The generation of the Consul that the test uses."""
    if isinstance(consul, FakeConsul):
        return consul.generation
    agent: ConsulAgent = request.getfixturevalue("consul_agent")
    return agent.generation


@pytest.fixture(scope="package")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A real agent whose ACLs deny by default."""
    with Guarded.running(tmp_path_factory.mktemp("guarded")) as running:
        yield running


@pytest.fixture(scope="package")
def triton_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    with TritonServer.running(tmp_path_factory.mktemp("triton"), *MODELS) as server:
        yield server
