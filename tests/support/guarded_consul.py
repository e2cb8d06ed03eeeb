"""A real Consul agent whose ACLs deny by default; tests create and revoke its tokens."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp

from sidecar.consul.access import ConsulAccess
from sidecar.consul.client import Consul
from sidecar.local.planning.acl import agent_config
from tests.support.consul_agent import ConsulAgent


@dataclass(frozen=True, slots=True)
class Guarded:
    """An agent whose ACLs deny by default, and its management token."""

    agent: ConsulAgent
    management: str
    folder: Path
    _accessors: dict[str, str] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def running(cls, folder: Path) -> Iterator[Self]:
        """Run an agent during the context."""
        management = str(uuid.uuid4())
        with ConsulAgent.running(folder, token=management, **agent_config(management)) as agent:
            yield cls(agent, management, folder)

    async def token(self, rules: str) -> str:
        """A new token with only these rules."""
        name = f"test-{uuid.uuid4()}"
        await self._ask("PUT", "acl/policy", {"Name": name, "Rules": rules})
        made = await self._ask("PUT", "acl/token", {"Policies": [{"Name": name}]})
        self._accessors[made["SecretID"]] = made["AccessorID"]
        return str(made["SecretID"])

    async def revoke(self, token: str) -> None:
        """Delete a token."""
        await self._ask("DELETE", f"acl/token/{self._accessors.pop(token)}")

    def client(self, token: str) -> Consul:
        """A client with a token."""
        file = self.folder / token
        file.write_text(token)
        return self.client_of(file)

    def client_of(self, file: Path) -> Consul:
        """A client with a token file."""
        return Consul(ConsulAccess(address=self.agent.http, token_file=file))

    async def _ask(self, verb: str, path: str, body: object = None) -> Any:
        headers = {"X-Consul-Token": self.management}
        url = f"http://{self.agent.http}/v1/{path}"
        async with aiohttp.request(verb, url, json=body, headers=headers) as response:
            return await response.json()
