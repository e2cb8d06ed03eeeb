"""`bootstrap_acl` on a real Consul agent with default deny."""

import re
import uuid
from pathlib import Path

import pytest

from sidecar.local.planning.acl import Tokens, bootstrap_acl, rules_for
from sidecar.local.planning.ports import reserve
from sidecar.runtime.errors import ConfigError, Rejected, Unavailable
from tests.support.acl_calls import (
    POLICIES,
    Agent,
    entry,
    register,
    register_control_plane,
    see_control_planes,
    see_sessions,
    take_lock,
    write_order,
)
from tests.support.acl_calls import agent as agent

pytestmark = pytest.mark.integration


def test_bootstrap_gives_each_program_its_permissions(agent: Agent) -> None:
    tokens = bootstrap_acl(agent.address, agent.management, POLICIES)
    assert register(agent, tokens.sidecar)
    assert take_lock(agent, tokens.sidecar)
    assert register_control_plane(agent, tokens.control_plane)
    assert not take_lock(agent, tokens.control_plane)
    assert see_sessions(agent, tokens.operator)
    assert write_order(agent, tokens.operator)
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


def test_bootstrap_for_another_service_names_that_service_in_the_rules(agent: Agent) -> None:
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


def test_bootstrap_with_a_policy_that_consul_cannot_parse_is_rejected(
    agent: Agent, tmp_path: Path
) -> None:
    for file in POLICIES.glob("*.hcl"):
        (tmp_path / file.name).write_text('service "broken" {')
    with pytest.raises(Rejected, match="parse"):
        bootstrap_acl(agent.address, agent.management, tmp_path, "broken")


def test_bootstrap_without_the_policy_files_names_the_file(agent: Agent, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "sidecar.hcl"))):
        bootstrap_acl(agent.address, agent.management, tmp_path)


def test_bootstrap_without_a_listening_agent_is_unavailable() -> None:
    with reserve(1) as (port,), pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
        bootstrap_acl(f"127.0.0.1:{port}", "any", POLICIES, timeout=0.2)


def test_rules_for_another_service_keep_the_name_of_the_control_planes() -> None:
    text = rules_for((POLICIES / "sidecar.hcl").read_text(), "chat")
    assert 'service "chat"' in text
    assert 'service "triton-sidecar-xds"' in text
    assert "triton-sidecar/chat/election/" in text


def test_the_repr_of_tokens_hides_them() -> None:
    tokens = Tokens.generate()
    assert tokens.sidecar not in repr(tokens)
