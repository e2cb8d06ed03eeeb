"""Operators' commands against the elections of several sidecars, on one Consul."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sidecar.cli.main import app
from sidecar.consul.access import ConsulAccess
from sidecar.consul.api import ConsulApi
from sidecar.consul.client import Consul
from sidecar.election import execute, own_candidacy
from sidecar.election.candidates import Candidate
from sidecar.election.decision import Intent
from sidecar.election.keys import orders
from sidecar.election.loop import Election
from sidecar.operator import follow_order, operator_client
from sidecar.operator.operator_client import OperatorClient
from sidecar.operator.order_progress import Step
from sidecar.operator.plans import OrderRequest
from sidecar.registry.registration import InstanceInfo, InstanceMeta, registration
from sidecar.runtime.clock import SystemClock
from sidecar.settings.tables.election import ElectionSettings
from tests.support.consul_agent import ConsulAgent

CLOCK = SystemClock()
RULES = ElectionSettings(settle=0, head_start=0).rules
_services = itertools.count()


class ElectingSidecar:
    """A sidecar's election loops; `proof` is why it is not fit, or None to give no proof."""

    def __init__(self, consul: ConsulApi, service: str, name: str) -> None:
        self.instance = InstanceInfo(
            f"{service}-{name}", service, "127.0.0.1", 1, 1, (), (), ("m",), "127.0.0.1:2", "live"
        )
        self.election = Election(consul, self.instance, RULES, CLOCK, lambda event: None)
        self.proof: str | None = ""
        self.tasks: list[asyncio.Task[None]] = []
        self._consul = consul

    @property
    def id(self) -> str:
        return self.instance.id

    async def register(self, *tags: str, settled_at: float | None = None) -> None:
        body = registration(replace(self.instance, tags=tags), InstanceMeta(settled_at=settled_at))
        checks = [
            {"CheckID": check["CheckID"], "Name": check["Name"], "TTL": "1h"}
            for check in body["Checks"]
        ]
        await self._consul.register_service({**body, "Checks": checks})
        for check in checks:
            await self._consul.update_check(check["CheckID"], "passing", "PASSING OK")

    def start(self) -> None:
        self.want(Intent.SEEK)
        self.tasks = [
            asyncio.create_task(loop)
            for loop in (self.election.watch(), self.election.run(), self._prove())
        ]

    def want(self, intent: Intent) -> None:
        own = Candidate(self.id, since=CLOCK.now() - 1000)
        self.election.candidacy.set((intent, own, "it is ill"))

    async def freeze(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _prove(self) -> None:
        async for state in self.election.state:
            if self.proof is not None and own_candidacy.wants_proof(state, self.id, CLOCK.wall()):
                assert state
                assert state.order
                await execute.write_proof(state.order, self.proof, self.election.context)


class Scene:
    """A service with its election, and an operator's client that reports each step."""

    def __init__(self, consul: ConsulApi) -> None:
        self.consul = consul
        self.service = f"operated{next(_services)}"
        ids = itertools.count()
        self.client = OperatorClient(
            consul, self.service, "no-planes", "", "jane@desk", CLOCK, lambda: f"order-{next(ids)}"
        )
        self.reported: list[Step] = []

    def request(self, **changes: Any) -> OrderRequest:
        return OrderRequest(self.client.order_id(), self.client.by, **changes)

    async def primary(self) -> str | None:
        return (await operator_client.read_status(self.client)).primary

    async def until_primary(self, name: str | None) -> None:
        async with asyncio.timeout(60):
            while await self.primary() != name:
                await asyncio.sleep(0.02)

    async def outcome(self) -> orders.Outcome:
        found = (await operator_client.read_status(self.client)).state.outcome
        assert found
        return found

    async def move(self, plan: Any, request: OrderRequest, timeout: float = 60.0) -> str:
        seen = await operator_client.read_status(self.client)
        order = await operator_client.write_order(self.client, plan(seen, request))
        report = self.reported.append
        moved = await follow_order.wait_until_moved(self.client, order, seen, timeout, report)
        await follow_order.wait_until_acknowledged(self.client, order, seen, moved, timeout, report)
        counted = await follow_order.with_cost(self.client, order, moved)
        assert counted.cost is None  # no control plane counts failed requests here
        return counted.primary

    @property
    def steps(self) -> list[str]:
        assert [step.at for step in self.reported] == sorted(step.at for step in self.reported)
        return [step.what.replace(f"{self.service}-", "") for step in self.reported]


@pytest.fixture
def scene(consul: ConsulApi) -> Scene:
    return Scene(consul)


@asynccontextmanager
async def sidecars(scene: Scene, *names: str, **tags: str) -> AsyncIterator[list[ElectingSidecar]]:
    """Sidecars with these names; the first one is primary."""
    found = [ElectingSidecar(scene.consul, scene.service, name) for name in names]
    try:
        for name, each in zip(names, found, strict=True):
            await each.register(*([tags[name]] if name in tags else []))
        for each in found:
            each.start()
            await scene.until_primary(found[0].id)
        yield found
    finally:
        for each in found:
            await each.freeze()
            await scene.consul.deregister_service(each.id)


Run = Callable[..., Result]


@pytest.fixture
def run(consul_agent: ConsulAgent, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("CONSUL_HTTP_ADDR", consul_agent.http)
    monkeypatch.delenv("CONSUL_HTTP_TOKEN", raising=False)

    def call(*arguments: str) -> Result:
        result = CliRunner().invoke(app, arguments)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


@asynccontextmanager
async def on_agent(consul_agent: ConsulAgent) -> AsyncIterator[Scene]:
    async with Consul(ConsulAccess(address=consul_agent.http)) as door:
        yield Scene(door)
