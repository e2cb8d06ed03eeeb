"""The commands of the traffic policy, on a real agent and on the model of Consul."""

import asyncio
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from sidecar.cli.main import app
from sidecar.consul.access import ConsulAccess
from sidecar.consul.api import ConsulApi, QueryResult, ServiceEntry, Set
from sidecar.consul.client import Consul
from sidecar.operator import policy_edit, policy_file
from sidecar.operator.operator_client import OperatorClient
from sidecar.registry.registration import InstanceInfo, InstanceMeta, registration
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.errors import ConfigError, Conflict, Rejected, Unavailable
from sidecar.traffic.document import dump, parse, policy_key
from sidecar.traffic.policy import DEFAULTS, Limits, Mode, Release, TrafficPolicy
from tests.support.consul_agent import ConsulAgent
from tests.support.consul_model import FakeConsul

pytestmark = pytest.mark.contract
RELEASE = TrafficPolicy(release=Release(tag="v2", percent=5))
_services = itertools.count()


def operator_client(consul: ConsulApi) -> OperatorClient:
    service = f"spread{next(_services)}"
    return OperatorClient(
        consul, service, "no-planes", "", "jane@desk", SystemClock(), lambda: "id"
    )


@pytest.fixture
def client(consul: ConsulApi) -> OperatorClient:
    return operator_client(consul)


async def put(client: OperatorClient, value: bytes, suffix: str = "") -> None:
    await client.consul.transact(Set(policy_key(client.service) + suffix, value))


async def set_(client: OperatorClient, policy: TrafficPolicy) -> policy_edit.PolicyEdit:
    edit = await policy_edit.plan(client, policy)
    await policy_edit.write(client, edit)
    return edit


async def test_a_written_policy_is_read_back(client: OperatorClient) -> None:
    assert await policy_edit.read(client) == policy_edit.StoredPolicy()
    await put(client, b"garbage", "-of-somebody")
    assert (await policy_edit.read(client)).policy == DEFAULTS
    edit = await set_(client, RELEASE)
    assert [str(change) for change in edit.changes] == [
        'release.tag: "v2", was not set',
        "release.percent: 5, was not set",
    ]
    seen = await policy_edit.read(client)
    assert seen.policy == RELEASE
    assert (await set_(client, RELEASE)).empty
    assert (await policy_edit.read(client)).index == seen.index


async def test_the_later_of_two_concurrent_edits_is_rejected(client: OperatorClient) -> None:
    edit = await policy_edit.plan(client, RELEASE)
    await set_(client, TrafficPolicy(mode=Mode.ACTIVE_ACTIVE))
    with pytest.raises(Conflict, match="the policy was just changed"):
        await policy_edit.write(client, edit)
    later = await policy_edit.plan(client, RELEASE)
    await set_(client, DEFAULTS)
    with pytest.raises(Conflict, match="the policy was just changed"):
        await policy_edit.write(client, later)


async def test_a_release_is_promoted_or_rolled_back(client: OperatorClient) -> None:
    for verb in (policy_edit.promote(client), policy_edit.roll_back(client, "")):
        with pytest.raises(Conflict):
            await verb
    await set_(client, RELEASE)
    await policy_edit.promote(client)
    promoted = (await policy_edit.read(client)).readable().release
    assert promoted
    assert promoted.share == 100
    assert (await policy_edit.promote(client)).empty
    await policy_edit.roll_back(client, "wrong answers")
    ended = (await policy_edit.read(client)).readable().release
    assert ended
    assert (ended.percent, ended.share) == (100, 0)
    assert ended.rolled_back.startswith("by jane@desk at 20")
    assert ended.rolled_back.endswith("Z: wrong answers")
    assert (await policy_edit.roll_back(client, "again")).empty
    with pytest.raises(Conflict, match=r"rolled back by jane@desk .* wrong answers"):
        await policy_edit.promote(client)


async def test_a_reset_restores_the_defaults(client: OperatorClient) -> None:
    assert (await policy_edit.reset(client)).index == 0
    for value in (dump(RELEASE).encode(), b"{", b"\xff"):
        await put(client, value)
        assert (await policy_edit.reset(client)).index
        assert await policy_edit.read(client) == policy_edit.StoredPolicy()


async def test_an_unreadable_policy_is_reported_and_can_be_replaced(client: OperatorClient) -> None:
    await put(client, b'{"mode": "fast", "limits": {"max_requests": 0}}')
    key = policy_key(client.service)
    with pytest.raises(ConfigError) as caught:
        (await policy_edit.read(client)).readable()
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{key}: mode: expected one of active-standby")
    assert second.startswith(f"{key}: limits.max_requests: expected a whole number")
    for verb in (policy_edit.promote(client), policy_edit.roll_back(client, "")):
        with pytest.raises(ConfigError, match="expected one of active-standby"):
            await verb
    edit = await set_(client, DEFAULTS)
    assert edit.seen.why == str(caught.value)
    assert (await policy_edit.read(client)).policy == DEFAULTS


async def test_an_edit_warns_about_a_tag_that_no_instance_has(client: OperatorClient) -> None:
    assert "Consul lists no instance" in (await policy_edit.plan(client, RELEASE)).warnings[0]
    own = InstanceInfo(
        "a", client.service, "127.0.0.1", 1, 1, (), (), ("m",), "127.0.0.1:2", "live"
    )
    await client.consul.register_service({**registration(own, InstanceMeta()), "Checks": []})
    async with asyncio.timeout(30):
        while not (await client.consul.health_service(client.service)).value:
            await asyncio.sleep(0.02)
    try:
        [unmatched] = (await policy_edit.plan(client, RELEASE)).warnings
        assert unmatched.startswith("release: ")
    finally:
        await client.consul.deregister_service("a")


class _ConcurrentWriter(FakeConsul):
    """Another writer changes the key after each of the first `times` reads of it."""

    def __init__(self, key: str, times: int) -> None:
        super().__init__()
        self._key, self._times = key, times

    async def kv_prefix(self, prefix: str, **options: Any) -> QueryResult[Any]:
        answer = await super().kv_prefix(prefix, **options)
        if self._times > 0:
            self._times -= 1
            value = dump(TrafficPolicy(release=Release(tag="v2", percent=self._times))).encode()
            await self.transact(Set(self._key, value))
        return answer


@pytest.mark.parametrize(("times", "done"), [(1, True), (4, True), (100, False)])
async def test_a_rollback_is_retried_after_concurrent_edits(times: int, done: bool) -> None:
    fake = FakeConsul()
    found = operator_client(fake)
    await set_(found, RELEASE)
    meddling = _ConcurrentWriter(policy_key(found.service), times)
    meddling.model = fake.model
    client = OperatorClient(
        meddling, found.service, "", "", "jane@desk", SystemClock(), lambda: "id"
    )
    if done:
        await policy_edit.roll_back(client, "")
        ended = (await policy_edit.read(found)).readable().release
        assert ended
        assert ended.rolled_back
    else:
        for verb in (policy_edit.roll_back(client, ""), policy_edit.reset(client)):
            with pytest.raises(Conflict, match="keeps changing"):
                await verb


class _Leaderless(FakeConsul):
    async def kv_prefix(self, prefix: str, **options: Any) -> QueryResult[Any]:
        answer = await super().kv_prefix(prefix, **options)
        return QueryResult(answer.value, answer.index, known_leader=False)


class _HidesInstances(FakeConsul):
    async def health_service(
        self, name: str, **options: Any
    ) -> QueryResult[tuple[ServiceEntry, ...]]:
        raise Rejected("Consul: health/service: permission denied")


async def test_an_answer_without_a_leader_is_rejected() -> None:
    for verb in (policy_edit.read, policy_edit.promote, policy_edit.reset):
        with pytest.raises(Unavailable, match="no leader"):
            await verb(operator_client(_Leaderless()))


async def test_a_token_that_sees_no_instances_may_set_a_policy() -> None:
    client = operator_client(_HidesInstances())
    edit = await set_(client, RELEASE)
    assert edit.warnings == (
        "its instances were not checked: Consul: health/service: permission denied",
    )
    assert (await policy_edit.read(client)).policy == RELEASE


# --- files ------------------------------------------------------------------------------------

YAML = """
# Half of it for the new one.
mode: active-active
release: {tag: v2, percent: 50}
limits:
  max_requests: 100   # what the GPUs stand
  slow_start: 30s
"""


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        (
            YAML,
            TrafficPolicy(
                mode=Mode.ACTIVE_ACTIVE,
                release=Release(tag="v2", percent=50),
                limits=Limits(max_requests=100, slow_start=30.0),
            ),
        ),
        ("{}", DEFAULTS),
        (dump(RELEASE), RELEASE),
    ],
)
def test_files_are_json_or_yaml(tmp_path: Path, text: str, policy: TrafficPolicy) -> None:
    path = tmp_path / "policy"
    path.write_text(text)
    assert policy_file.load(str(path)) == policy


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "expected a policy, found nothing; {} is one with all defaults"),
        (b"# nothing\n", "expected a policy, found nothing"),
        (b"mode: fast", "mode: expected one of active-standby, active-active, weighted, strict, "),
        (b"- a", "expected an object, found a list"),
        (b"a: [", "expected JSON or YAML, found a mistake at line 1, column 5: "),
        (b"mode: strict\nmode: strict", "expected JSON or YAML, found a mistake at line 1, column"),
        (b"a: &x [1]\nb: *x", "expected JSON or YAML, found a mistake at line 2, column 4: alias"),
        (b"mode: !!python/name:os.system", "expected JSON or YAML, found a mistake at line 1"),
        (b"mode: 2024-01-01", "expected what JSON can hold: Object of type date"),
        (b"mode: 2024-99-99", "expected what JSON can hold: month must be in"),
        (b"limits: {max_requests: .inf}", "expected JSON, found Infinity"),
        (b"[" * 10_000, "expected YAML of a few levels, found very many"),
        (b"\x00", "expected JSON or YAML: unacceptable character"),
        (b"\xff", "expected JSON or YAML in UTF-8, found other bytes"),
        (b"{mode: strict}", "expected JSON, found "),
        (b"? [a]\n: b", "expected JSON or YAML, found a mistake at line 1"),
    ],
)
def test_an_error_in_a_file_is_reported(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        policy_file.load(str(path))
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{path}: {said}")


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    for name in (str(tmp_path / "gone"), str(tmp_path), "a\0b"):
        with pytest.raises(ConfigError, match="expected a file with a policy"):
            policy_file.load(name)


@given(data=st.text().map(lambda text: text.encode(errors="replace")) | st.binary())
def test_any_file_is_either_read_or_rejected(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)
    try:
        found = policy_file.load(str(path))
    except ConfigError as error:
        lines = str(error).splitlines()
    else:
        lines = []
        assert parse(dump(found)) == found
    assert all(line.startswith(f"{path}: ") and "expected" in line for line in lines)


def test_the_examples_of_the_docs_are_valid() -> None:
    guide = (Path(__file__).parents[4] / "docs" / "traffic.md").read_text()
    examples = re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL)
    assert len(examples) > 5
    for example in examples:
        assert policy_file.as_policy(example) != DEFAULTS


# --- the command line and its output ------------------------------------------------------------

Run = Callable[..., Result]


@pytest.fixture
def run(consul_agent: ConsulAgent, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("CONSUL_HTTP_ADDR", consul_agent.http)
    monkeypatch.delenv("CONSUL_HTTP_TOKEN", raising=False)
    service = f"spread{next(_services)}"

    def call(verb: str, *arguments: str, given: str | None = None) -> Result:
        where = () if verb == "validate" else (f"--service={service}",)
        result = CliRunner().invoke(app, ["policy", verb, *arguments, *where], input=given)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


def test_the_output_of_each_command(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(YAML)

    def json_of(*arguments: str, given: str | None = None) -> Any:
        return json.loads(run(*arguments, "--json", given=given).stdout)

    empty = run("get")
    assert (empty.exit_code, empty.stdout) == (0, "{}\n")
    assert empty.stderr == "triton-sidecar: there is no policy; the defaults apply\n"
    assert run("validate", str(file)).stdout == f"{file} is a valid policy\n"

    different = run("diff", str(file))
    assert different.exit_code == 0
    assert 'mode: "active-active", was "active-standby"\n' in different.stdout
    assert "Consul lists no instance" in different.stderr
    assert json_of("set", str(file), "--dry-run")["written"] is False
    assert run("get").stdout == "{}\n"

    assert "limits.max_requests: 100, was not set\n" in run("set", str(file)).stdout
    assert run("set", str(file)).stdout == "nothing changes\n"
    shown = run("get").stdout
    assert parse(shown) == policy_file.load(str(file))
    assert run("set", "-", given=shown).stdout == "nothing changes\n"
    whole = run("get", "--all").stdout
    assert json.loads(whole)["retry"]["num_retries"] == 1
    assert run("set", "-", given=whole).stdout == "nothing changes\n"

    assert run("promote").stdout == "release.percent: 100, was 50\n"
    assert run("promote").stdout == "nothing changes\n"
    ended = json_of("rollback", "--reason=wrong answers")
    assert ended["written"] is True
    assert ended["policy"]["release"]["rolled_back"].endswith(": wrong answers")
    refused = run("promote")
    assert refused.exit_code == 1
    assert "was rolled back by " in refused.stderr
    again = run("set", str(file))
    assert "release: " in again.stderr
    assert "release.rolled_back: " in again.stdout

    gone = run("reset")
    assert parse(gone.stdout) == policy_file.load(str(file))
    assert run("reset").stdout == "there is no policy; the defaults apply\n"
    assert json_of("reset") == {"done": True, "removed": False, "was": None, "unreadable": None}
    assert json_of("get") == {"done": True, "policy": {}, "index": 0}
    assert json_of("promote")["done"] is False


def test_an_invalid_file_changes_nothing(run: Run) -> None:
    for verb in ("set", "diff", "validate"):
        result = run(verb, "-", "--json", given='{"mode": "fast", "odd": 1}')
        assert result.exit_code == 2
        document = json.loads(result.stdout)
        first, second = document["why"].splitlines()
        assert first.startswith("standard input: mode: expected one of")
        assert second.startswith("standard input: odd: unknown key")
        assert first in result.stderr
    assert json.loads(run("get", "--json").stdout)["index"] == 0


async def test_the_output_for_an_unreadable_policy(run: Run, consul_agent: ConsulAgent) -> None:
    service = json.loads((await asyncio.to_thread(run, "get", "--json")).stdout)
    assert service["policy"] == {}
    async with Consul(ConsulAccess(address=consul_agent.http)) as consul:
        client = OperatorClient(
            consul, f"garbage{next(_services)}", "", "", "x", SystemClock(), lambda: "id"
        )
        await put(client, b'{"mode": "fast"}')

        async def call(*arguments: str) -> Result:
            where = f"--service={client.service}"
            full = ["policy", *arguments, where]
            return await asyncio.to_thread(CliRunner().invoke, app, full, input="mode: strict")

        got = await call("get")
        assert got.exit_code == 2
        key = policy_key(client.service)
        assert got.stderr.startswith(f"triton-sidecar: {key}: mode: expected one of")
        assert f"{key}: mode: expected" in (await call("diff", "-")).stderr
        replaced = await call("set", "-")
        assert replaced.exit_code == 0
        assert "replaced, as it cannot be read: " in replaced.stderr
        assert (await call("get")).stdout == '{\n  "mode": "strict"\n}\n'


def test_an_unreachable_consul_is_exit_status_3(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "127.0.0.1:1")
    for verb in (["get"], ["set", "-"], ["diff", "-"], ["promote"], ["rollback"], ["reset"]):
        result = run(*verb, "--json", given="{}")
        assert result.exit_code == 3, verb
        assert json.loads(result.stdout)["done"] is False
    assert run("validate", "-", given="{}").exit_code == 0
