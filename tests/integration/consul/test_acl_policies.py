"""The ACL policies on a real Consul agent with default deny: enough for every call, and no more.

Each rule of each file is taken out, and each write lowered to read, and a call that it is there for
has to fail. A rule without such a call may not be in the files.
"""

import asyncio
import base64
import http.client
import json
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sidecar.consul.access import ConsulAccess
from sidecar.consul.client import Consul
from sidecar.control_planes.membership import Listing
from sidecar.control_planes.watch import PlaneDirectory
from sidecar.local.planning.acl import Tokens, agent_config, bootstrap_acl, rules_for
from sidecar.local.planning.ports import reserve
from sidecar.registry.drain import wait_until_idle
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.errors import ConfigError, Rejected, Unavailable
from tests.support.consul_agent import ConsulAgent

POLICIES = Path(__file__).parents[3] / "consul" / "policies"
RULE = re.compile(r'(?m)^(?P<kind>\w+) "(?P<name>[^"]*)" \{\n  policy = "(?P<level>\w+)"\n\}\n')
LOCK = "triton-sidecar/triton/election/lock"
EPOCH = "triton-sidecar/triton/election/epoch"
ORDER = "triton-sidecar/triton/election/order"
OUTCOME = "triton-sidecar/triton/election/outcome"
PAUSE = "triton-sidecar/triton/election/pause"
POLICY = "triton-sidecar/triton/policy"
HISTORY = "triton-sidecar/triton/history/first"

pytestmark = pytest.mark.integration


@dataclass(frozen=True, slots=True)
class Agent:
    """A running agent."""

    address: str
    management: str

    def ask(self, token: str, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and decoded answer of one request."""
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
        """The answer to the management token, which is never refused."""
        status, answer = self.ask(self.management, method, path, body)
        assert status == 200, (method, path, status, answer)
        return answer

    def token_for(self, rules: str) -> str:
        """A new token with just these rules."""
        return self.policy_and_token(rules)[1]

    def policy_and_token(self, rules: str) -> tuple[str, str]:
        """The id of a new policy with just these rules, and a token that has it."""
        policy = {"Name": f"test-{uuid.uuid4()}", "Rules": rules}
        found = self.must("PUT", "/v1/acl/policy", policy)["ID"]
        answer = self.must("PUT", "/v1/acl/token", {"Policies": [{"ID": found}]})
        return str(found), str(answer["SecretID"])

    def grant(self, policy: str, rules: str) -> None:
        """Give a policy other rules."""
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
    """A registration that passes as long as its check is updated."""
    check = {"CheckID": f"{instance}:verdict", "Name": "verdict", "TTL": "1h", "Status": "passing"}
    return {"Name": service, "ID": instance, "Address": "127.0.0.1", "Port": 1, "Checks": [check]}


def populate(agent: Agent) -> None:
    """What the rights are about."""
    for service, instance in (("triton", "triton-0"), ("triton-sidecar-xds", "xds-0")):
        agent.must("PUT", "/v1/agent/service/register", entry(service, instance))
        path = f"/v1/health/service/{service}"
        until(partial(agent.must, "GET", path))
    for key in (LOCK, EPOCH, HISTORY, POLICY):
        agent.must("PUT", f"/v1/kv/{key}", {"instance": "triton-0"})


def until(holds: Callable[[], object]) -> None:
    """Wait for the agent to bring its services into the catalog."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- the calls; each answers whether it was granted -------------------------------------------


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


def prove_control_planes(agent: Agent, token: str) -> bool:
    """Whether an empty list of them would mean that there is none."""
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
    """Lock and epoch in one transaction, then release."""
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
    """As it is done when somebody else may do the same."""
    index = agent.must("GET", f"/v1/kv/{POLICY}")[0]["ModifyIndex"]
    value = base64.b64encode(uuid.uuid4().bytes).decode()
    write = {"KV": {"Verb": "cas", "Key": POLICY, "Value": value, "Index": index}}
    return agent.ask(token, "PUT", "/v1/txn", [write])[0] == 200


def write_and_remove(agent: Agent, token: str, key: str) -> bool:
    """As an order or a pause is given and taken back: each by a transaction."""
    write = {"KV": {"Verb": "cas", "Key": key, "Value": "e30=", "Index": 0}}
    status, answer = agent.ask(token, "PUT", "/v1/txn", [write])
    if status != 200:
        return False
    index = answer["Results"][0]["KV"]["ModifyIndex"]
    remove = {"KV": {"Verb": "delete-cas", "Key": key, "Index": index}}
    return agent.ask(token, "PUT", "/v1/txn", [remove])[0] == 200


def write_history(agent: Agent, token: str) -> bool:
    return write_and_remove(agent, token, HISTORY.replace("first", "second"))


def give_order(agent: Agent, token: str) -> bool:
    return write_and_remove(agent, token, ORDER)


def tell_outcome(agent: Agent, token: str) -> bool:
    return write_and_remove(agent, token, OUTCOME)


def pause_and_resume(agent: Agent, token: str) -> bool:
    return write_and_remove(agent, token, PAUSE)


Call = Callable[[Agent, str], bool]

# For each rule: the calls that need it, first those that need it to be `write`.
NEEDED: dict[str, dict[tuple[str, str], tuple[tuple[Call, ...], tuple[Call, ...]]]] = {
    "sidecar.hcl": {
        ("service", "triton"): (
            (register, report_verdict, deregister),
            (read_own_entry, see_instances),
        ),
        ("service", "triton-sidecar-xds"): ((), (see_control_planes, prove_control_planes)),
        ("node_prefix", ""): ((), (see_instances, see_control_planes, prove_control_planes)),
        ("session_prefix", ""): ((create_session, renew_session, destroy_session), ()),
        ("key_prefix", "triton-sidecar/triton/election/"): (
            (take_lock, give_order, tell_outcome, pause_and_resume),
            (see_lock,),
        ),
        ("key_prefix", "triton-sidecar/triton/history/"): ((write_history,), (see_history,)),
    },
    "control-plane.hcl": {
        ("service", "triton-sidecar-xds"): ((register_control_plane, report_control_plane), ()),
        ("service", "triton"): ((), (see_instances,)),
        ("service", "consul"): ((), (see_servers,)),
        ("node_prefix", ""): ((), (see_instances, see_servers)),
        ("key_prefix", "triton-sidecar/triton/election/"): ((), (see_lock,)),
        ("key", POLICY): ((change_policy,), (see_policy,)),
    },
    "operator.hcl": {
        ("service", "triton"): ((), (see_instances,)),
        ("service", "triton-sidecar-xds"): ((), (see_control_planes, prove_control_planes)),
        ("node_prefix", ""): ((), (see_instances, see_control_planes, prove_control_planes)),
        ("key_prefix", "triton-sidecar/triton/"): ((), (see_lock, see_history)),
        ("key", POLICY): ((change_policy,), ()),
        ("key", ORDER): ((give_order,), ()),
        ("key", OUTCOME): ((tell_outcome,), ()),
        ("key", PAUSE): ((pause_and_resume,), ()),
        ("session_prefix", ""): ((destroy_session,), (see_sessions,)),
    },
    "viewer.hcl": {
        ("service", "triton"): ((), (see_instances,)),
        ("service", "triton-sidecar-xds"): ((), (see_control_planes, prove_control_planes)),
        ("node_prefix", ""): ((), (see_instances, see_control_planes, prove_control_planes)),
        ("key_prefix", "triton-sidecar/triton/"): ((), (see_lock, see_history, see_policy)),
        ("session_prefix", ""): ((), (see_sessions,)),
    },
}
# What the rules allow besides, because Consul knows no narrower right.
IMPLIED: dict[str, set[Call]] = {
    "sidecar.hcl": {see_sessions},
    "control-plane.hcl": {read_own_entry, see_control_planes, prove_control_planes},
    "operator.hcl": {read_own_entry, see_policy, create_session, renew_session},
    "viewer.hcl": {read_own_entry},
}
CASES = [(file, *rule) for file, rules in NEEDED.items() for rule in rules]


def calls_of(file: str) -> set[Call]:
    """Every call that the policy has to allow."""
    return {call for pair in NEEDED[file].values() for calls in pair for call in calls}


EVERY_CALL = sorted(set.union(*map(calls_of, NEEDED)), key=lambda call: call.__name__)


@pytest.mark.parametrize("file", NEEDED)
def test_every_rule_has_a_call_it_is_for(file: str) -> None:
    text = (POLICIES / file).read_text()
    written = {(rule["kind"], rule["name"]): rule["level"] for rule in RULE.finditer(text)}
    wanted = {rule: "write" if writes else "read" for rule, (writes, _) in NEEDED[file].items()}
    assert written == wanted
    left = [line for line in RULE.sub("", text).splitlines() if line and not line.startswith("#")]
    assert left == []


@pytest.mark.parametrize("file", NEEDED)
def test_policy_allows_its_calls_and_no_other(agent: Agent, file: str) -> None:
    token = agent.token_for((POLICIES / file).read_text())
    granted = {call for call in EVERY_CALL if call(agent, token)}
    assert granted == calls_of(file) | IMPLIED[file]


@pytest.mark.parametrize(("file", "kind", "name"), CASES)
def test_without_the_rule_its_calls_fail(agent: Agent, file: str, kind: str, name: str) -> None:
    text = (POLICIES / file).read_text()

    def drop(rule: re.Match[str]) -> str:
        return "" if (rule["kind"], rule["name"]) == (kind, name) else rule[0]

    token = agent.token_for(RULE.sub(drop, text))
    writes, reads = NEEDED[file][kind, name]
    assert [call.__name__ for call in writes + reads if call(agent, token)] == []


@pytest.mark.parametrize(
    ("file", "kind", "name"), [case for case in CASES if NEEDED[case[0]][case[1:]][0]]
)
def test_with_read_only_its_writes_fail(agent: Agent, file: str, kind: str, name: str) -> None:
    text = (POLICIES / file).read_text()

    def lower(rule: re.Match[str]) -> str:
        same = (rule["kind"], rule["name"]) == (kind, name)
        return rule[0].replace('"write"', '"read"') if same else rule[0]

    token = agent.token_for(RULE.sub(lower, text))
    writes, reads = NEEDED[file][kind, name]
    assert [call.__name__ for call in writes if call(agent, token)] == []
    assert [call.__name__ for call in reads if not call(agent, token)] == []


def test_a_sidecar_can_write_no_other_key_and_no_other_service(agent: Agent) -> None:
    token = agent.token_for((POLICIES / "sidecar.hcl").read_text())
    assert agent.ask(token, "PUT", "/v1/kv/triton-sidecar/other/election/lock", {})[0] == 403
    body = entry("database", "database-0")
    assert agent.ask(token, "PUT", "/v1/agent/service/register", body)[0] == 403


def test_what_a_sidecar_registers_reaches_the_catalog(agent: Agent) -> None:
    token = agent.token_for((POLICIES / "sidecar.hcl").read_text())
    body = entry("triton", "triton-new")
    assert agent.ask(token, "PUT", "/v1/agent/service/register", body)[0] == 200
    try:
        until(
            lambda: (
                "triton-new"
                in [
                    item["Service"]["ID"] for item in agent.must("GET", "/v1/health/service/triton")
                ]
            )
        )
    finally:
        agent.must("PUT", "/v1/agent/service/deregister/triton-new")


def test_anonymous_sees_an_empty_service(agent: Agent) -> None:
    """The trap: no error, just nothing there. A control plane must not believe it."""
    assert agent.ask("", "GET", "/v1/health/service/triton") == (200, [])


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


# --- bootstrap_acl ----------------------------------------------------------------------------


def test_bootstrap_gives_each_program_its_rights(agent: Agent) -> None:
    tokens = bootstrap_acl(agent.address, agent.management, POLICIES)
    assert register(agent, tokens.sidecar)
    assert take_lock(agent, tokens.sidecar)
    assert register_control_plane(agent, tokens.control_plane)
    assert not take_lock(agent, tokens.control_plane)
    assert see_sessions(agent, tokens.operator)
    assert give_order(agent, tokens.operator)
    assert not take_lock(agent, tokens.operator)
    assert not register(agent, tokens.operator)


def test_bootstrap_again_with_the_same_secrets_changes_nothing(agent: Agent) -> None:
    tokens = Tokens.generate()
    for _ in range(2):
        given = bootstrap_acl(agent.address, agent.management, POLICIES, tokens=tokens)
        assert given == tokens
    assert register(agent, tokens.sidecar)
    secrets = [token["Description"] for token in agent.must("GET", "/v1/acl/tokens")]
    assert "triton-sidecar-operator-triton" in secrets


def test_bootstrap_for_another_service(agent: Agent) -> None:
    tokens = bootstrap_acl(agent.address, agent.management, POLICIES, "chat")
    assert not register(agent, tokens.sidecar)
    body = entry("chat", "chat-0")
    assert agent.ask(tokens.sidecar, "PUT", "/v1/agent/service/register", body)[0] == 200
    key = "/v1/kv/triton-sidecar/chat/election/lock"
    assert agent.ask(tokens.sidecar, "PUT", key, {})[0] == 200
    assert see_control_planes(agent, tokens.sidecar)
    agent.must("PUT", "/v1/agent/service/deregister/chat-0")


def test_bootstrap_with_a_wrong_management_token_is_rejected(agent: Agent) -> None:
    with pytest.raises(Rejected, match="ACL not found"):
        bootstrap_acl(agent.address, str(uuid.uuid4()), POLICIES, timeout=0.2)


def test_bootstrap_with_a_policy_consul_cannot_read_is_rejected(
    agent: Agent, tmp_path: Path
) -> None:
    for file in NEEDED:
        (tmp_path / file).write_text('service "broken" {')
    with pytest.raises(Rejected, match="parse"):
        bootstrap_acl(agent.address, agent.management, tmp_path, "broken")


def test_bootstrap_without_the_policy_files_names_the_file(agent: Agent, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "sidecar.hcl"))):
        bootstrap_acl(agent.address, agent.management, tmp_path)


def test_bootstrap_with_nobody_there_is_unavailable() -> None:
    with reserve(1) as (port,), pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
        bootstrap_acl(f"127.0.0.1:{port}", "any", POLICIES, timeout=0.2)


def test_rules_for_another_service_keep_the_control_planes_name() -> None:
    text = rules_for((POLICIES / "sidecar.hcl").read_text(), "chat")
    assert 'service "chat"' in text
    assert 'service "triton-sidecar-xds"' in text
    assert "triton-sidecar/chat/election/" in text


def test_tokens_do_not_show_themselves() -> None:
    tokens = Tokens.generate()
    assert tokens.sidecar not in repr(tokens)
