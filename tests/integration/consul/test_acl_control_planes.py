"""What a token must be able to read so that an empty list of control planes is believed."""

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
class Sight:
    """What a token may read of control planes, and what is missing."""

    rules: str
    missing: str


SERVICE_READ = 'service "triton-sidecar-xds" {\n  policy = "read"\n}\n'
NODE_READ = 'node_prefix "" {\n  policy = "read"\n}\n'
OWN_NODE = 'node "node-1" {\n  policy = "read"\n}\n'
SHORT = [
    Sight("", "neither"),
    Sight(NODE_READ, "the service"),
    Sight(SERVICE_READ, "the nodes"),
    Sight(SERVICE_READ + OWN_NODE, "other nodes"),
]


@asynccontextmanager
async def door(agent: Agent, token: str) -> AsyncIterator[Consul]:
    async with Consul(ConsulAccess(address=agent.address, token=token)) as consul:
        yield consul


@pytest.fixture
def deserted(agent: Agent) -> Iterator[Agent]:
    """Without any control plane."""
    listed = partial(agent.must, "GET", "/v1/health/service/triton-sidecar-xds")
    agent.must("PUT", "/v1/agent/service/deregister/xds-0")
    until(lambda: not listed())
    yield agent
    agent.must("PUT", "/v1/agent/service/register", entry("triton-sidecar-xds", "xds-0"))
    until(listed)


@pytest.mark.parametrize("sight", SHORT, ids=lambda sight: sight.missing)
async def test_a_drain_does_not_end_because_its_token_shows_no_control_plane(
    deserted: Agent, sight: Sight
) -> None:
    own = 'service "triton" {\n  policy = "write"\n}\n'
    policy, token = deserted.policy_and_token(own + sight.rules)
    doubts: asyncio.Queue[str] = asyncio.Queue()
    async with door(deserted, token) as consul:
        register = PlaneDirectory(consul, "triton-sidecar-xds", "triton")
        drain = asyncio.ensure_future(
            wait_until_idle(register, "triton", "triton-0", SystemClock(), doubts.put_nowait)
        )
        incomplete = await asyncio.wait_for(doubts.get(), 60)
        assert "service:read for 'triton-sidecar-xds'" in incomplete
        assert 'node:read for every node (node_prefix "")' in incomplete
        assert not drain.done()
        # As consul/policies/sidecar.hcl gives it.
        deserted.grant(policy, own + SERVICE_READ + NODE_READ)
        await asyncio.wait_for(drain, 60)


@pytest.mark.parametrize("file", ["sidecar.hcl", "operator.hcl", "viewer.hcl"])
async def test_with_our_policies_an_empty_list_is_believed(deserted: Agent, file: str) -> None:
    token = deserted.token_for((POLICIES / file).read_text())
    async with door(deserted, token) as consul:
        register = PlaneDirectory(consul, "triton-sidecar-xds", "triton")
        assert await register.listing() == Listing()


async def test_a_token_that_nobody_knows_is_no_proof(deserted: Agent) -> None:
    async with door(deserted, str(uuid.uuid4())) as consul:
        with pytest.raises(Rejected, match="ACL not found"):
            await PlaneDirectory(consul, "triton-sidecar-xds", "triton").listing()


async def test_a_token_that_may_not_see_them_is_told_so_where_one_is_registered(
    agent: Agent,
) -> None:
    token = agent.token_for('service "triton" {\n  policy = "write"\n}\n' + NODE_READ)
    async with door(agent, token) as consul:
        listing = await PlaneDirectory(consul, "triton-sidecar-xds", "triton").listing()
        assert listing.planes == ()
        assert "service:read" in listing.incomplete
