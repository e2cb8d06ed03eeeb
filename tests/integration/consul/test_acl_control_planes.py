"""What a token must be able to read for an empty list of control planes to be trusted."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import pytest

from sidecar.consul.access import ConsulAccess
from sidecar.consul.client import Consul
from sidecar.control_planes.membership import Listing
from sidecar.control_planes.watch import PlaneDirectory
from sidecar.registry.drain import wait_until_idle
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.errors import Rejected
from tests.support.acl_calls import POLICIES, Agent, entry, until
from tests.support.acl_calls import agent as agent

pytestmark = pytest.mark.integration


@dataclass(frozen=True, slots=True)
class ReadAccess:
    """Rules that let a token read some of the control planes' entries, and what they lack."""

    rules: str
    missing: str


SERVICE_READ = 'service "triton-sidecar-xds" {\n  policy = "read"\n}\n'
NODE_READ = 'node_prefix "" {\n  policy = "read"\n}\n'
OWN_NODE = 'node "node-1" {\n  policy = "read"\n}\n'
INSUFFICIENT = [
    ReadAccess("", "neither"),
    ReadAccess(NODE_READ, "the service"),
    ReadAccess(SERVICE_READ, "the nodes"),
    ReadAccess(SERVICE_READ + OWN_NODE, "other nodes"),
]


@asynccontextmanager
async def connected(agent: Agent, token: str) -> AsyncIterator[Consul]:
    async with Consul(ConsulAccess(address=agent.address, token=token)) as consul:
        yield consul


@pytest.fixture
def without_control_planes(agent: Agent) -> Iterator[Agent]:
    """The agent without a registered control plane."""
    listed = partial(agent.must, "GET", "/v1/health/service/triton-sidecar-xds")
    agent.must("PUT", "/v1/agent/service/deregister/xds-0")
    until(lambda: not listed())
    yield agent
    agent.must("PUT", "/v1/agent/service/register", entry("triton-sidecar-xds", "xds-0"))
    until(listed)


@pytest.mark.parametrize("access", INSUFFICIENT, ids=lambda access: access.missing)
async def test_a_drain_waits_while_its_token_cannot_read_all_control_planes(
    without_control_planes: Agent, access: ReadAccess
) -> None:
    service_write = 'service "triton" {\n  policy = "write"\n}\n'
    policy, token = without_control_planes.policy_and_token(service_write + access.rules)
    warnings: asyncio.Queue[str] = asyncio.Queue()
    async with connected(without_control_planes, token) as consul:
        register = PlaneDirectory(consul, "triton-sidecar-xds", "triton")
        drain = asyncio.ensure_future(
            wait_until_idle(register, "triton", "triton-0", SystemClock(), warnings.put_nowait)
        )
        incomplete = await asyncio.wait_for(warnings.get(), 60)
        assert "service:read for 'triton-sidecar-xds'" in incomplete
        assert 'node:read for every node (node_prefix "")' in incomplete
        assert not drain.done()
        # The rules of consul/policies/sidecar.hcl.
        without_control_planes.grant(policy, service_write + SERVICE_READ + NODE_READ)
        await asyncio.wait_for(drain, 60)


@pytest.mark.parametrize("file", ["sidecar.hcl", "operator.hcl", "viewer.hcl"])
async def test_with_our_policies_an_empty_list_of_control_planes_is_trusted(
    without_control_planes: Agent, file: str
) -> None:
    token = without_control_planes.token_for((POLICIES / file).read_text())
    async with connected(without_control_planes, token) as consul:
        register = PlaneDirectory(consul, "triton-sidecar-xds", "triton")
        assert await register.listing() == Listing()


async def test_listing_control_planes_with_an_unknown_token_is_rejected(
    without_control_planes: Agent,
) -> None:
    async with connected(without_control_planes, str(uuid.uuid4())) as consul:
        with pytest.raises(Rejected, match="ACL not found"):
            await PlaneDirectory(consul, "triton-sidecar-xds", "triton").listing()


async def test_a_listing_without_service_read_is_incomplete(
    agent: Agent,
) -> None:
    token = agent.token_for('service "triton" {\n  policy = "write"\n}\n' + NODE_READ)
    async with connected(agent, token) as consul:
        listing = await PlaneDirectory(consul, "triton-sidecar-xds", "triton").listing()
        assert listing.planes == ()
        assert "service:read" in listing.incomplete
