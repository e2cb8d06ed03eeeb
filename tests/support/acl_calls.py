"""A Consul agent with default deny, and calls with a token, each of which Consul allows or not."""

import base64
import http.client
import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sidecar.local.planning.acl import agent_config, bootstrap_acl
from tests.support.consul_agent import ConsulAgent

POLICIES = Path(__file__).parents[2] / "consul" / "policies"
LOCK = "triton-sidecar/triton/election/lock"
EPOCH = "triton-sidecar/triton/election/epoch"
ORDER = "triton-sidecar/triton/election/order"
OUTCOME = "triton-sidecar/triton/election/outcome"
PAUSE = "triton-sidecar/triton/election/pause"
POLICY = "triton-sidecar/triton/policy"
HISTORY = "triton-sidecar/triton/history/first"
DRILL = "triton-sidecar/triton/drill/order"
LAST_DRILL = "triton-sidecar/triton/drill/last"
ANSWER = "triton-sidecar/triton/drill/answer/triton-0"


@dataclass(frozen=True, slots=True)
class Agent:
    """A running Consul agent, with its management token."""

    address: str
    management: str

    def ask(self, token: str, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Send one request; returns the status and the decoded response."""
        connection = http.client.HTTPConnection(self.address, timeout=30)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"X-Consul-Token": token})
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text

    def must(self, method: str, path: str, body: object = None) -> Any:
        """Send a request with the management token; returns the response, which must be a 200."""
        status, answer = self.ask(self.management, method, path, body)
        assert status == 200, (method, path, status, answer)
        return answer

    def token_for(self, rules: str) -> str:
        """A new token with only these rules."""
        return self.policy_and_token(rules)[1]

    def policy_and_token(self, rules: str) -> tuple[str, str]:
        """The id of a new policy with only these rules, and a token for it."""
        policy = {"Name": f"test-{uuid.uuid4()}", "Rules": rules}
        found = self.must("PUT", "/v1/acl/policy", policy)["ID"]
        answer = self.must("PUT", "/v1/acl/token", {"Policies": [{"ID": found}]})
        return str(found), str(answer["SecretID"])

    def grant(self, policy: str, rules: str) -> None:
        """Replace a policy's rules."""
        body = {"Name": f"test-{uuid.uuid4()}", "Rules": rules}
        self.must("PUT", f"/v1/acl/policy/{policy}", body)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """An agent with default deny, one instance, one control plane, and a lock."""
    management = str(uuid.uuid4())
    folder, config = tmp_path_factory.mktemp("consul"), agent_config(management)
    with ConsulAgent.running(folder, token=management, **config) as consul:
        running = Agent(consul.http, management)
        bootstrap_acl(running.address, management, POLICIES)
        populate(running)
        yield running


def entry(service: str, instance: str) -> dict[str, Any]:
    """A registration whose check passes for an hour after each update."""
    check = {"CheckID": f"{instance}:verdict", "Name": "verdict", "TTL": "1h", "Status": "passing"}
    return {"Name": service, "ID": instance, "Address": "127.0.0.1", "Port": 1, "Checks": [check]}


def populate(agent: Agent) -> None:
    """Register an instance and a control plane, and write the keys that the policies cover."""
    for service, instance in (("triton", "triton-0"), ("triton-sidecar-xds", "xds-0")):
        agent.must("PUT", "/v1/agent/service/register", entry(service, instance))
        path = f"/v1/health/service/{service}"
        until(partial(agent.must, "GET", path))
    for key in (LOCK, EPOCH, HISTORY, POLICY, DRILL):
        agent.must("PUT", f"/v1/kv/{key}", {"instance": "triton-0"})


def until(holds: Callable[[], object]) -> None:
    """Wait until the agent has synced its services to the catalog."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- the calls; each returns whether Consul allowed it ----------------------------------------


def register(agent: Agent, token: str) -> bool:
    status, _ = agent.ask(token, "PUT", "/v1/agent/service/register", entry("triton", "triton-0"))
    return status == 200


def report_verdict(agent: Agent, token: str) -> bool:
    body = {"Status": "passing", "Output": "serving"}
    return agent.ask(token, "PUT", "/v1/agent/check/update/triton-0:verdict", body)[0] == 200


def read_own_entry(agent: Agent, token: str) -> bool:
    return agent.ask(token, "GET", "/v1/agent/service/triton-0")[0] == 200


def deregister(agent: Agent, token: str) -> bool:
    agent.must("PUT", "/v1/agent/service/register", entry("triton", "triton-gone"))
    try:
        status, _ = agent.ask(token, "PUT", "/v1/agent/service/deregister/triton-gone")
    finally:
        agent.ask(agent.management, "PUT", "/v1/agent/service/deregister/triton-gone")
    return status == 200


def register_control_plane(agent: Agent, token: str) -> bool:
    body = entry("triton-sidecar-xds", "xds-0")
    return agent.ask(token, "PUT", "/v1/agent/service/register", body)[0] == 200


def report_control_plane(agent: Agent, token: str) -> bool:
    body = {"Status": "passing", "Output": "serving"}
    return agent.ask(token, "PUT", "/v1/agent/check/update/xds-0:verdict", body)[0] == 200


def see_instances(agent: Agent, token: str) -> bool:
    status, entries = agent.ask(token, "GET", "/v1/health/service/triton")
    return status == 200 and bool(entries)


def see_control_planes(agent: Agent, token: str) -> bool:
    status, entries = agent.ask(token, "GET", "/v1/health/service/triton-sidecar-xds")
    return status == 200 and bool(entries)


def read_all_control_planes(agent: Agent, token: str) -> bool:
    """Whether the token may read enough for an empty list to mean that none is registered."""
    service = {"Resource": "service", "Access": "read", "Segment": "triton-sidecar-xds"}
    node = {"Resource": "node", "Access": "read", "Segment": ""}
    status, found = agent.ask(token, "POST", "/v1/internal/acl/authorize", [service, node])
    return status == 200 and [each["Allow"] for each in found] == [True, True]


def see_servers(agent: Agent, token: str) -> bool:
    status, entries = agent.ask(token, "GET", "/v1/health/service/consul")
    return status == 200 and bool(entries)


def see_lock(agent: Agent, token: str) -> bool:
    path = "/v1/kv/triton-sidecar/triton/election/?recurse=true"
    status, entries = agent.ask(token, "GET", path)
    return status == 200 and len(entries) == 2


def see_sessions(agent: Agent, token: str) -> bool:
    session = new_session(agent)
    try:
        status, entries = agent.ask(token, "GET", f"/v1/session/info/{session}")
        return status == 200 and bool(entries)
    finally:
        agent.must("PUT", f"/v1/session/destroy/{session}")


def new_session(agent: Agent) -> str:
    body = {"TTL": "60s", "LockDelay": "0s", "NodeChecks": []}
    return str(agent.must("PUT", "/v1/session/create", body)["ID"])


def create_session(agent: Agent, token: str) -> bool:
    body = {"TTL": "15s", "NodeChecks": [], "ServiceChecks": [{"ID": "triton-0:verdict"}]}
    status, answer = agent.ask(token, "PUT", "/v1/session/create", body)
    if status == 200:
        agent.must("PUT", f"/v1/session/destroy/{answer['ID']}")
    return status == 200


def renew_session(agent: Agent, token: str) -> bool:
    session = new_session(agent)
    try:
        return agent.ask(token, "PUT", f"/v1/session/renew/{session}")[0] == 200
    finally:
        agent.must("PUT", f"/v1/session/destroy/{session}")


def destroy_session(agent: Agent, token: str) -> bool:
    session = new_session(agent)
    try:
        return agent.ask(token, "PUT", f"/v1/session/destroy/{session}")[0] == 200
    finally:
        agent.must("PUT", f"/v1/session/destroy/{session}")


def take_lock(agent: Agent, token: str) -> bool:
    """Write lock and epoch in one transaction, then release the lock."""
    session = new_session(agent)
    lock = {"Verb": "lock", "Key": LOCK, "Value": "e30=", "Session": session}
    epoch = {"Verb": "set", "Key": EPOCH, "Value": "e30="}
    try:
        status, _ = agent.ask(token, "PUT", "/v1/txn", [{"KV": lock}, {"KV": epoch}])
        if status != 200:
            return False
        checked = [{"KV": lock | {"Verb": "check-session"}}, {"KV": epoch}]
        if agent.ask(token, "PUT", "/v1/txn", checked)[0] != 200:
            return False
        return agent.ask(token, "PUT", f"/v1/kv/{LOCK}?release={session}", {})[1] is True
    finally:
        agent.must("PUT", f"/v1/session/destroy/{session}")


def see_history(agent: Agent, token: str) -> bool:
    path = "/v1/kv/triton-sidecar/triton/history/?recurse=true"
    status, entries = agent.ask(token, "GET", path)
    return status == 200 and len(entries) == 1


def see_policy(agent: Agent, token: str) -> bool:
    status, entries = agent.ask(token, "GET", f"/v1/kv/{POLICY}?recurse=true")
    return status == 200 and len(entries) == 1


def change_policy(agent: Agent, token: str) -> bool:
    """Write it with check-and-set, as is done where writers may race."""
    index = agent.must("GET", f"/v1/kv/{POLICY}")[0]["ModifyIndex"]
    value = base64.b64encode(uuid.uuid4().bytes).decode()
    write = {"KV": {"Verb": "cas", "Key": POLICY, "Value": value, "Index": index}}
    return agent.ask(token, "PUT", "/v1/txn", [write])[0] == 200


def write_and_remove(agent: Agent, token: str, key: str) -> bool:
    """Write and delete a key, each in a transaction, as for an order or a pause."""
    write = {"KV": {"Verb": "cas", "Key": key, "Value": "e30=", "Index": 0}}
    status, answer = agent.ask(token, "PUT", "/v1/txn", [write])
    if status != 200:
        return False
    index = answer["Results"][0]["KV"]["ModifyIndex"]
    remove = {"KV": {"Verb": "delete-cas", "Key": key, "Index": index}}
    return agent.ask(token, "PUT", "/v1/txn", [remove])[0] == 200


def write_history(agent: Agent, token: str) -> bool:
    return write_and_remove(agent, token, HISTORY.replace("first", "second"))


def write_order(agent: Agent, token: str) -> bool:
    return write_and_remove(agent, token, ORDER)


def write_outcome(agent: Agent, token: str) -> bool:
    return write_and_remove(agent, token, OUTCOME)


def pause_and_resume(agent: Agent, token: str) -> bool:
    return write_and_remove(agent, token, PAUSE)


Call = Callable[[Agent, str], bool]


def see_drill(agent: Agent, token: str) -> bool:
    path = "/v1/kv/triton-sidecar/triton/drill/?recurse=true"
    status, entries = agent.ask(token, "GET", path)
    return status == 200 and DRILL in [each["Key"] for each in entries]


def hold_drill(agent: Agent, token: str) -> bool:
    """Take the lock, give an order under it, and release it."""
    session = new_session(agent)
    lock = {"Verb": "lock", "Key": DRILL, "Value": "e30=", "Session": session}
    order = {"Verb": "set", "Key": DRILL, "Value": "e30="}
    try:
        held = [{"KV": lock | {"Verb": "check-session"}}, {"KV": order}]
        unlock = [{"KV": lock | {"Verb": "unlock"}}]
        asked = (
            agent.ask(token, "PUT", "/v1/txn", each)[0] for each in ([{"KV": lock}], held, unlock)
        )
        return all(status == 200 for status in asked)
    finally:
        agent.must("PUT", f"/v1/session/destroy/{session}")


def answer_drill(agent: Agent, token: str) -> bool:
    """As long as the drill holds its lock."""
    session = new_session(agent)
    agent.must("PUT", f"/v1/kv/{DRILL}?acquire={session}", {})
    checked = {"Verb": "check-session", "Key": DRILL, "Session": session}
    answer = {"Verb": "set", "Key": ANSWER, "Value": "e30="}
    try:
        return agent.ask(token, "PUT", "/v1/txn", [{"KV": checked}, {"KV": answer}])[0] == 200
    finally:
        agent.must("PUT", f"/v1/session/destroy/{session}")


def record_drill(agent: Agent, token: str) -> bool:
    return write_and_remove(agent, token, LAST_DRILL)
