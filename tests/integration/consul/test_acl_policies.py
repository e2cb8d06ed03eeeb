"""The ACL policies on a real Consul agent with default deny: each call is allowed, and no other.

The tests drop each rule of each file, and lower each `write` to `read`; then the calls that need it
must fail. The files may not have a rule that no call needs.
"""

import re

import pytest

from tests.support.acl_calls import (
    DRILL,
    LAST_DRILL,
    ORDER,
    OUTCOME,
    PAUSE,
    POLICIES,
    POLICY,
    Agent,
    Call,
    answer_drill,
    change_policy,
    create_session,
    deregister,
    destroy_session,
    entry,
    hold_drill,
    pause_and_resume,
    read_all_control_planes,
    read_own_entry,
    record_drill,
    register,
    register_control_plane,
    renew_session,
    report_control_plane,
    report_verdict,
    see_control_planes,
    see_drill,
    see_history,
    see_instances,
    see_lock,
    see_policy,
    see_servers,
    see_sessions,
    take_lock,
    until,
    write_history,
    write_order,
    write_outcome,
)
from tests.support.acl_calls import agent as agent

pytestmark = pytest.mark.integration
RULE = re.compile(r'(?m)^(?P<kind>\w+) "(?P<name>[^"]*)" \{\n  policy = "(?P<level>\w+)"\n\}\n')
# The calls that need each rule: first those that need `write`, then those that need `read`.
NEEDED: dict[str, dict[tuple[str, str], tuple[tuple[Call, ...], tuple[Call, ...]]]] = {
    "sidecar.hcl": {
        ("service", "triton"): (
            (register, report_verdict, deregister),
            (read_own_entry, see_instances),
        ),
        ("service", "triton-sidecar-xds"): ((), (see_control_planes, read_all_control_planes)),
        ("node_prefix", ""): ((), (see_instances, see_control_planes, read_all_control_planes)),
        ("session_prefix", ""): ((create_session, renew_session, destroy_session), ()),
        ("key_prefix", "triton-sidecar/triton/election/"): (
            (take_lock, write_order, write_outcome, pause_and_resume),
            (see_lock,),
        ),
        ("key_prefix", "triton-sidecar/triton/history/"): ((write_history,), (see_history,)),
        ("key_prefix", "triton-sidecar/triton/drill/"): ((), (see_drill,)),
        ("key_prefix", "triton-sidecar/triton/drill/answer/"): ((answer_drill,), ()),
    },
    "drill.hcl": {
        ("service", "triton"): ((), (see_instances,)),
        ("service", "triton-sidecar-xds"): ((), (see_control_planes, read_all_control_planes)),
        ("node_prefix", ""): ((), (see_instances, see_control_planes, read_all_control_planes)),
        ("key_prefix", "triton-sidecar/triton/"): ((), (see_lock,)),
        ("key", DRILL): ((hold_drill,), ()),
        ("key", ORDER): ((write_order,), ()),
        ("key", OUTCOME): ((write_outcome,), ()),
        ("key", LAST_DRILL): ((record_drill,), ()),
        ("key_prefix", "triton-sidecar/triton/history/"): ((write_history,), ()),
        ("session_prefix", ""): ((create_session, renew_session, destroy_session), ()),
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
        ("service", "triton-sidecar-xds"): ((), (see_control_planes, read_all_control_planes)),
        ("node_prefix", ""): ((), (see_instances, see_control_planes, read_all_control_planes)),
        ("key_prefix", "triton-sidecar/triton/"): ((), (see_lock, see_history, see_drill)),
        ("key", POLICY): ((change_policy,), ()),
        ("key", ORDER): ((write_order,), ()),
        ("key", OUTCOME): ((write_outcome,), ()),
        ("key", PAUSE): ((pause_and_resume,), ()),
        ("session_prefix", ""): ((destroy_session,), (see_sessions,)),
    },
    "viewer.hcl": {
        ("service", "triton"): ((), (see_instances,)),
        ("service", "triton-sidecar-xds"): ((), (see_control_planes, read_all_control_planes)),
        ("node_prefix", ""): ((), (see_instances, see_control_planes, read_all_control_planes)),
        ("key_prefix", "triton-sidecar/triton/"): (
            (),
            (see_lock, see_history, see_policy, see_drill),
        ),
        ("session_prefix", ""): ((), (see_sessions,)),
    },
}
# Calls that the rules also allow, because Consul has no narrower permission.
IMPLIED: dict[str, set[Call]] = {
    "sidecar.hcl": {see_sessions},
    "drill.hcl": {read_own_entry, see_policy, see_sessions, see_history, see_drill},
    "control-plane.hcl": {read_own_entry, see_control_planes, read_all_control_planes},
    "operator.hcl": {read_own_entry, see_policy, create_session, renew_session},
    "viewer.hcl": {read_own_entry},
}
CASES = [(file, *rule) for file, rules in NEEDED.items() for rule in rules]


def calls_of(file: str) -> set[Call]:
    """Every call that the policy must allow."""
    return {call for pair in NEEDED[file].values() for calls in pair for call in calls}


EVERY_CALL = sorted(set.union(*map(calls_of, NEEDED)), key=lambda call: call.__name__)


@pytest.mark.parametrize("file", NEEDED)
def test_every_rule_is_needed_by_a_call(file: str) -> None:
    text = (POLICIES / file).read_text()
    written = {(rule["kind"], rule["name"]): rule["level"] for rule in RULE.finditer(text)}
    wanted = {rule: "write" if writes else "read" for rule, (writes, _) in NEEDED[file].items()}
    assert written == wanted
    left = [line for line in RULE.sub("", text).splitlines() if line and not line.startswith("#")]
    assert left == []


@pytest.mark.parametrize("file", NEEDED)
def test_a_policy_allows_its_calls_and_no_others(agent: Agent, file: str) -> None:
    token = agent.token_for((POLICIES / file).read_text())
    granted = {call for call in EVERY_CALL if call(agent, token)}
    assert granted == calls_of(file) | IMPLIED[file]


@pytest.mark.parametrize(("file", "kind", "name"), CASES)
def test_without_a_rule_the_calls_that_need_it_fail(
    agent: Agent, file: str, kind: str, name: str
) -> None:
    text = (POLICIES / file).read_text()

    def drop(rule: re.Match[str]) -> str:
        return "" if (rule["kind"], rule["name"]) == (kind, name) else rule[0]

    token = agent.token_for(RULE.sub(drop, text))
    writes, reads = NEEDED[file][kind, name]
    assert [call.__name__ for call in writes + reads if call(agent, token)] == []


@pytest.mark.parametrize(
    ("file", "kind", "name"), [case for case in CASES if NEEDED[case[0]][case[1:]][0]]
)
def test_with_read_access_only_the_writes_of_a_rule_fail(
    agent: Agent, file: str, kind: str, name: str
) -> None:
    text = (POLICIES / file).read_text()

    def lower(rule: re.Match[str]) -> str:
        same = (rule["kind"], rule["name"]) == (kind, name)
        return rule[0].replace('"write"', '"read"') if same else rule[0]

    token = agent.token_for(RULE.sub(lower, text))
    writes, reads = NEEDED[file][kind, name]
    assert [call.__name__ for call in writes if call(agent, token)] == []
    assert [call.__name__ for call in reads if not call(agent, token)] == []


def test_a_sidecar_can_write_no_keys_or_entries_of_other_services(agent: Agent) -> None:
    token = agent.token_for((POLICIES / "sidecar.hcl").read_text())
    assert agent.ask(token, "PUT", "/v1/kv/triton-sidecar/other/election/lock", {})[0] == 403
    body = entry("database", "database-0")
    assert agent.ask(token, "PUT", "/v1/agent/service/register", body)[0] == 403


def test_a_sidecars_registration_reaches_the_catalog(agent: Agent) -> None:
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


def test_the_anonymous_token_sees_an_empty_service(agent: Agent) -> None:
    """Consul returns an empty list instead of an error; a control plane must not trust it."""
    assert agent.ask("", "GET", "/v1/health/service/triton") == (200, [])
