"""The operator's verbs against election loops, on a real agent and on the model of Consul."""

import asyncio
import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sidecar.cli.main import app
from sidecar.cli.operator import json_output, switchover
from sidecar.consul.access import ConsulAccess
from sidecar.consul.api import ConsulApi, Set
from sidecar.consul.client import Consul
from sidecar.election import execute, own_candidacy
from sidecar.election.candidates import Candidate
from sidecar.election.decision import Intent
from sidecar.election.keys import orders
from sidecar.election.loop import Election
from sidecar.operator import follow_order, operator_client, plans
from sidecar.operator.operator_client import OperatorClient
from sidecar.operator.order_progress import Step
from sidecar.operator.plans import OrderRequest
from sidecar.registry.registration import InstanceInfo, InstanceMeta, registration
from sidecar.runtime.clock import SystemClock
from sidecar.runtime.errors import Conflict, DeadlineExceeded, Interrupted
from sidecar.settings.tables.election import ElectionSettings
from tests.support.consul_agent import ConsulAgent

pytestmark = pytest.mark.contract
AGENT_IS_ENOUGH = True
CLOCK = SystemClock()
RULES = ElectionSettings(settle=0, head_start=0).rules
_services = itertools.count()


class Player:
    """A sidecar as far as its election goes; `proof` is what it finds wrong with itself."""

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
    def __init__(self, consul: ConsulApi) -> None:
        self.consul = consul
        self.service = f"operated{next(_services)}"
        ids = itertools.count()
        self.client = OperatorClient(
            consul, self.service, "no-planes", "", "jane@desk", CLOCK, lambda: f"order-{next(ids)}"
        )
        self.told: list[Step] = []

    def request(self, **changes: Any) -> OrderRequest:
        return OrderRequest(self.client.order_id(), self.client.by, **changes)

    async def primary(self) -> str | None:
        return (await operator_client.read_status(self.client)).primary

    async def becomes(self, name: str | None) -> None:
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
        tell = self.told.append
        moved = await follow_order.wait_until_moved(self.client, order, seen, timeout, tell)
        await follow_order.wait_until_acknowledged(self.client, order, seen, moved, timeout, tell)
        counted = await follow_order.with_cost(self.client, order, moved)
        assert counted.cost is None  # nobody counts here
        return counted.primary

    @property
    def steps(self) -> list[str]:
        assert [step.at for step in self.told] == sorted(step.at for step in self.told)
        return [step.what.replace(f"{self.service}-", "") for step in self.told]


@pytest.fixture
def scene(consul: ConsulApi) -> Scene:
    return Scene(consul)


@asynccontextmanager
async def players(scene: Scene, *names: str, **tags: str) -> AsyncIterator[list[Player]]:
    """The first one is primary."""
    found = [Player(scene.consul, scene.service, name) for name in names]
    try:
        for name, player in zip(names, found, strict=True):
            await player.register(*([tags[name]] if name in tags else []))
        for player in found:
            player.start()
            await scene.becomes(found[0].id)
        yield found
    finally:
        for player in found:
            await player.freeze()
            await scene.consul.deregister_service(player.id)


async def test_switchover_moves_the_role_and_tells_how(scene: Scene) -> None:
    async with players(scene, "a", "b") as (a, b):
        assert await scene.move(plans.switchover, scene.request(reason="new kernel")) == b.id
        assert await scene.primary() == b.id
        *steps, last = scene.steps
        assert steps[:3] == ["ordered", "b has proved itself", "a has released the role"]
        assert steps[3].startswith("b is primary, epoch ")
        assert last == "no control plane follows the service, so there is no Envoy to wait for"
        *_, entry = await operator_client.read_history(scene.client, 20)
        assert (entry.by, entry.to, entry.cause) == (
            a.id,
            b.id,
            "switchover by jane@desk: new kernel",
        )
        assert len(await operator_client.read_history(scene.client, 1)) == 1
        outcome = await scene.outcome()
        assert outcome.done
        assert (await operator_client.read_status(scene.client)).state.order is None


async def test_a_candidate_that_is_not_fit_changes_nothing(scene: Scene) -> None:
    async with players(scene, "a", "b") as (a, b):
        b.proof = "chat: CANARY_WRONG"
        with pytest.raises(Conflict, match="is not fit: chat: CANARY_WRONG"):
            await scene.move(plans.switchover, scene.request())
        assert await scene.primary() == a.id
        assert (await operator_client.read_status(scene.client)).state.order is None


async def test_an_order_that_takes_too_long_is_taken_back(scene: Scene) -> None:
    async with players(scene, "a", "b") as (a, b):
        b.proof = None
        with pytest.raises(
            DeadlineExceeded, match="has not proved itself; the order was cancelled"
        ):
            await scene.move(plans.switchover, scene.request(), timeout=2.0)
        assert await scene.primary() == a.id
        outcome = await scene.outcome()
        assert (outcome.done, outcome.why) == (False, "cancelled by jane@desk")
        b.proof = ""
        assert await scene.move(plans.switchover, scene.request()) == b.id


async def test_the_wait_reports_that_the_candidate_settles(scene: Scene) -> None:
    async with players(scene, "a", "b", "c") as (a, b, c):
        until = CLOCK.wall() + 600
        await b.register(settled_at=until)
        b.proof = None
        with pytest.raises(
            DeadlineExceeded, match=r"b is settling, \d+ s to go; the order was cancelled"
        ):
            await scene.move(plans.switchover, scene.request(to=b.id), timeout=2.0)
        settling = scene.told[1]
        assert settling.what.startswith(f"{b.id} is settling, ")
        assert settling.settling_seconds
        assert scene.steps.count("ordered") == len(scene.steps) - 1 == 1
        # Nobody named: the one that has settled is chosen, and nobody has to wait.
        assert await scene.move(plans.switchover, scene.request()) == c.id
        # A failover waits for nobody, and says nothing of it.
        scene.told.clear()
        c.want(Intent.YIELD)
        a.want(Intent.YIELD)
        await scene.becomes(None)
        b.proof = ""
        assert await scene.move(plans.failover, scene.request(to=b.id)) == b.id
        assert not [step for step in scene.told if step.settling_seconds]


async def test_one_for_later_waits_and_can_be_cancelled(scene: Scene) -> None:
    async with players(scene, "a", "b") as (a, _):
        seen = await operator_client.read_status(scene.client)
        planned = plans.switchover(seen, scene.request(at=CLOCK.wall() + 3600))
        order = await operator_client.write_order(scene.client, planned)
        with pytest.raises(Conflict, match="another order was just given"):
            await operator_client.write_order(scene.client, planned)
        waits = asyncio.create_task(
            follow_order.wait_until_moved(scene.client, order, seen, 60, scene.told.append)
        )
        await asyncio.sleep(0)
        cancelled = await operator_client.cancel_pending(scene.client)
        assert cancelled
        assert cancelled.startswith("switchover by jane@desk, for 20")
        with pytest.raises(Conflict, match="the order failed: cancelled by jane@desk"):
            await waits
        assert await operator_client.cancel_pending(scene.client) is None
        assert await scene.primary() == a.id


async def test_one_for_later_chooses_its_candidate_then(scene: Scene) -> None:
    async with players(scene, "a", "b") as (_, b):
        at = CLOCK.wall() + 2.0
        assert await scene.move(plans.switchover, scene.request(at=at)) == b.id
        assert "b is the candidate" in scene.steps
        assert scene.told[0].what.startswith("ordered for 20")


async def test_a_paused_mesh_takes_orders_and_nothing_else(scene: Scene) -> None:
    async with players(scene, "a", "b", "c") as (a, _, c):
        new, old = await operator_client.pause(scene.client, 3600, "fabric")
        assert (new.by, new.reason, old) == ("jane@desk", "fabric", None)
        _, old = await operator_client.pause(scene.client, None, "still")
        assert old == new
        a.want(Intent.YIELD)
        await scene.becomes(None)
        await asyncio.sleep(1.0)
        assert await scene.primary() is None
        assert await scene.move(plans.failover, scene.request(to=c.id)) == c.id
        ended = await operator_client.resume(scene.client)
        assert ended
        assert ended.reason == "still"
        assert await operator_client.resume(scene.client) is None


async def test_without_a_primary_one_that_is_not_fit_is_not_waited_for(scene: Scene) -> None:
    async with players(scene, "a", "b") as (a, b):
        await operator_client.pause(scene.client, None, "")
        a.want(Intent.YIELD)
        await scene.becomes(None)
        b.proof = "chat: CANARY_WRONG"
        with pytest.raises(Conflict, match="is not fit: chat: CANARY_WRONG"):
            await scene.move(plans.failover, scene.request(to=b.id))
        assert (await operator_client.read_status(scene.client)).state.order is None
        assert "is not fit" in (await scene.outcome()).why


async def test_force_ends_the_session_of_a_frozen_primary(scene: Scene) -> None:
    async with players(scene, "a", "b", b="nofailover") as (a, b):
        await a.freeze()
        b.proof = None
        with pytest.raises(Conflict, match="is primary and serves"):
            await scene.move(plans.failover, scene.request(to=b.id))
        assert await scene.move(plans.failover, scene.request(to=b.id, force=True)) == b.id
        assert "destroying the primary's session, as it does not release the role" in scene.steps


async def test_force_replaces_another_order(scene: Scene) -> None:
    async with players(scene, "a", "b") as (_, b):
        seen = await operator_client.read_status(scene.client)
        later = plans.switchover(seen, scene.request(at=CLOCK.wall() + 3600))
        order = await operator_client.write_order(scene.client, later)
        waits = asyncio.create_task(
            follow_order.wait_until_moved(scene.client, order, seen, 60, lambda step: None)
        )
        await asyncio.sleep(0.1)
        assert await scene.move(plans.failover, scene.request(force=True)) == b.id
        with pytest.raises(Conflict, match=r"replaced by a failover|the order was removed"):
            await waits


@pytest.mark.parametrize(
    ("step", "ends"),
    [
        ("ordered", "stopped waiting; the order stands"),
        ("b is primary, epoch", "b is primary, epoch "),
        ("no control plane follows", ""),
    ],
)
async def test_ctrl_c_says_how_far_it_has_come(
    scene: Scene, capsys: pytest.CaptureFixture[str], step: str, ends: str
) -> None:
    async with players(scene, "a", "b") as (_, b):

        class Show(json_output.MoveObject):
            def step(self, told: Step) -> None:
                super().step(told)
                if told.what.replace(f"{scene.service}-", "").startswith(step):
                    moving.cancel()

        moving = asyncio.ensure_future(
            switchover._order(scene.client, scene.request(), plans.switchover, 60, Show())
        )
        if ends:
            with pytest.raises(Interrupted) as caught:
                await moving
            assert ends in str(caught.value).replace(f"{scene.service}-", "")
            assert capsys.readouterr().out == ""  # the object is printed where the verb ends
        else:
            await moving
            document = json.loads(capsys.readouterr().out)
            assert (document["done"], document["primary"]) == (True, b.id)
        await scene.becomes(b.id)


async def test_what_cannot_be_read_is_flushed(scene: Scene) -> None:
    async with players(scene, "a", "b") as (_, b):
        await scene.consul.transact(Set(orders.order_key(scene.service), b"{"))
        with pytest.raises(Conflict, match="cannot be read"):
            await scene.move(plans.switchover, scene.request())
        assert (
            await operator_client.cancel_pending(scene.client) == "something that could not be read"
        )
        assert await scene.move(plans.switchover, scene.request()) == b.id


# --- typing and printing ----------------------------------------------------------------------

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


async def test_the_whole_story_as_it_is_printed(run: Run, consul_agent: ConsulAgent) -> None:
    async with on_agent(consul_agent) as scene, players(scene, "a", "b") as (a, b):

        async def call(*arguments: str) -> Result:
            return await asyncio.to_thread(run, *arguments, f"--service={scene.service}")

        async def told(*arguments: str) -> Any:
            return json.loads((await call(*arguments, "--json")).stdout)

        listed = await call("list")
        assert f"{scene.service}: {a.id} is primary, epoch " in listed.output
        assert listed.exit_code == 0
        document = await told("list")
        assert [row["role"] for row in document["instances"]] == ["primary", "standby"]
        assert (document["done"], document["primary"]) == (True, a.id)

        dry = await told("failover", "--dry-run")
        assert (dry["winner"], dry["done"], dry["dry_run"]) == (b.id, False, True)
        refused = await call("failover")
        assert refused.exit_code == 1
        (line,) = refused.stderr.splitlines()
        assert line.startswith(f"triton-sidecar: {a.id} is primary and serves")

        moved = await call("switchover", "--reason=new kernel")
        assert moved.exit_code == 0, moved.output
        assert "s  ordered\n" in moved.output
        assert f"{b.id} is primary, epoch" in moved.output
        assert "new kernel" in (await call("history")).output
        document = await told("history", "-n", "1")
        assert [(each["from"], each["to"]) for each in document["history"]] == [(a.id, b.id)]

        later = await call("switchover", "--in=10m", "--to", a.id)
        assert later.exit_code == 0
        assert "`flush switchover` cancels it" in later.output
        document = await told("list")
        assert document["order"]["to"] == a.id
        again = await told("switchover")
        assert again["done"] is False
        assert "another order is pending" in again["why"]
        assert "cancelled: switchover to" in (await call("flush", "switchover")).output
        nothing = await call("flush", "switchover")
        assert (nothing.exit_code, nothing.output) == (0, "no order is pending\n")

        await call("pause", "--for=2h", "--reason=fabric")
        assert "it was paused already" in (await call("pause", "--reason=fabric 2")).output
        assert ": fabric 2" in (await call("list")).output
        assert (await told("list"))["paused"]["reason"] == "fabric 2"
        assert "resumed; it was paused by" in (await call("resume")).output
        running = await call("resume")
        assert (running.exit_code, running.output) == (0, "automation was not paused\n")

        # What is left of a service whose instances have gone is shown.
        other = Scene(scene.consul)
        await scene.consul.transact(Set(orders.pause_key(other.service), b"{}"))
        left = await asyncio.to_thread(run, "list", f"--service={other.service}")
        assert left.exit_code == 0
        assert "there is no primary" in left.output
        empty = await asyncio.to_thread(run, "history", f"--service={other.service}")
        assert (empty.exit_code, empty.output) == (0, "no instance has been primary yet\n")

        # What has happened is told, also if it fails in the end.
        a.proof = "chat: CANARY_WRONG"
        failed = await call("switchover", "--json")
        assert failed.exit_code == 1
        document = json.loads(failed.stdout)
        assert "is not fit: chat: CANARY_WRONG" in document["why"]
        assert document["steps"][0]["what"] == "ordered"


async def test_a_consul_is_known_as_one(consul_agent: ConsulAgent) -> None:
    async with Consul(ConsulAccess(address=consul_agent.http)) as door:
        assert await door.is_consul()


async def test_force_asks_at_a_terminal(consul_agent: ConsulAgent) -> None:
    async with on_agent(consul_agent) as scene, players(scene, "a", "b") as (a, b):
        no, told = await at_terminal(consul_agent, "n\n", f"--service={scene.service}")
        assert no == 1
        assert f"note: {a.id} serves, and is forced out of the role" in told
        assert f"make {b.id} primary by force? [y/N] " in told
        assert "not confirmed; nothing was written" in told
        assert await scene.primary() == a.id
        assert (await operator_client.read_status(scene.client)).state.order is None
        yes, told = await at_terminal(consul_agent, "y\n", f"--service={scene.service}")
        assert yes == 0, told
        assert told.count("is forced out of the role") == 1
        assert await scene.primary() == b.id


async def test_force_takes_nothing_that_was_not_confirmed(consul_agent: ConsulAgent) -> None:
    async with on_agent(consul_agent) as scene, players(scene, "a", "b", "c") as (a, b, c):

        async def move() -> None:
            assert await scene.move(plans.switchover, scene.request(to=c.id)) == c.id

        where = f"--service={scene.service}", f"--to={b.id}"
        status, told = await at_terminal(consul_agent, "y\n", *where, meanwhile=move)
        assert status == 1
        assert f"note: {a.id} serves, and is forced out of the role" in told
        assert f"{c.id} has become primary" in told
        assert await scene.primary() == c.id
        assert (await operator_client.read_status(scene.client)).state.order is None


async def test_a_signal_leaves_programs_one_object(consul_agent: ConsulAgent) -> None:
    async with on_agent(consul_agent) as scene, players(scene, "a", "b") as (_, b):
        b.proof = None  # it takes its time
        process = await asyncio.create_subprocess_exec(
            # In the background a shell has it ignored, by the tests and all that they start.
            *("env", "--default-signal=INT", sys.executable, "-m", "sidecar", "switchover"),
            *("--json", f"--service={scene.service}"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "CONSUL_HTTP_ADDR": consul_agent.http},
        )
        while (await operator_client.read_status(scene.client)).state.order is None:
            assert process.returncode is None
            await asyncio.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, said = await process.communicate()
        assert process.returncode == 130, said
        document = json.loads(out)
        assert document["done"] is False
        assert document["why"].startswith("stopped waiting; the order ")
        assert said.decode() == f"triton-sidecar: {document['why']}\n"
        assert (await operator_client.read_status(scene.client)).state.order


async def _at_once() -> None:
    pass


async def at_terminal(
    agent: ConsulAgent,
    answer: str,
    *arguments: str,
    meanwhile: Callable[[], Awaitable[None]] = _at_once,
) -> tuple[int, str]:
    """Exit status of `failover --force`, and what it says to somebody who gives that answer.

    `meanwhile` happens between the question and the answer.
    """
    ours, theirs = os.openpty()
    command = (sys.executable, "-m", "sidecar", "failover", "--force", *arguments)
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "CONSUL_HTTP_ADDR": agent.http},
    )
    os.close(theirs)
    said = b""
    while b"? [y/N] " not in said:
        said += await asyncio.to_thread(os.read, ours, 4096)
    await meanwhile()
    os.write(ours, answer.encode())
    with suppress(OSError):  # the end, on Linux
        while more := await asyncio.to_thread(os.read, ours, 4096):
            said += more
    os.close(ours)
    return await process.wait(), said.decode()


@pytest.mark.parametrize(
    ("arguments", "status", "why"),
    [
        (("list", "--mesh=x", "--config=y"), 2, "expected --mesh or --config, not both"),
        (("list", "--mesh=/nowhere"), 2, "no mesh is running there"),
        (("list", "--config=/nowhere.toml"), 2, "expected a configuration file in TOML"),
        (("switchover", "--at=soon"), 2, "--at: expected a time such as 03:00"),
        (("switchover", "--in=soon"), 2, "--in: expected a duration"),
        (("switchover", "--in=5"), 2, "--in: expected a unit, such as 5s or 5m, found '5'"),
        (("pause", "--for=2"), 2, "--for: expected a unit, such as 2s or 2m, found '2'"),
        (("switchover", "--timeout=60"), 2, "--timeout: expected a unit, such as 60s or 60m"),
        (("switchover", "--service=nobody", "--in=2d"), 1, "there is no primary"),
        (("switchover", "--in=0s"), 2, "--in: expected a duration above zero"),
        (("switchover", "--in=1m", "--at=03:00"), 2, "expected --at or --in, not both"),
        (("switchover", "--timeout=x"), 2, "--timeout: expected a duration"),
        (("pause", "--for=ever"), 2, "--for: expected a duration"),
        (("list", "--service=bad name"), 2, "--service: expected a name"),
        (("list", "--service="), 2, "--service: expected a name"),
        (("list", "--service=a/b", "--mesh=/nowhere"), 2, "--service: expected a name"),
        (("switchover", "--service=nobody"), 1, "there is no primary; `failover` elects one (Con"),
        (("failover", "--force"), 2, "expected --yes with --force: there is no terminal to ask"),
        (("failover", "--force", "--yes", "--service=nobody"), 1, "no other instance may become"),
        (("list", "--service=nobody"), 1, "nobody: no such service (Consul lists no instance"),
        (("history", "--service=nobody"), 1, "nobody: no such service (Consul lists"),
        (("flush", "switchover", "--service=nobody"), 1, "nobody: no such service (Consul lists"),
        (
            ("failover", "--service=nobody", "--to=x"),
            1,
            "x: no such instance; the instances are: none",
        ),
    ],
)
def test_refusals_and_mistakes(run: Run, arguments: tuple[str, ...], status: int, why: str) -> None:
    result = run(*arguments, "--json")
    assert result.exit_code == status, result.output
    document = json.loads(result.stdout)
    assert document["done"] is False
    assert why in document["why"]
    assert why in result.stderr


def test_a_dry_run_without_a_winner_is_no_success(run: Run) -> None:
    result = run("failover", "--dry-run", "--service=nobody")
    assert result.exit_code == 1
    assert "no instance would win" in result.output


def test_consul_out_of_reach(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "127.0.0.1:1")
    for verb in (["list"], ["history"], ["resume"], ["pause"], ["flush", "switchover"]):
        result = run(*verb, "--json")
        assert result.exit_code == 3, verb
        assert json.loads(result.stdout)["done"] is False


def test_the_service_of_a_settings_file(run: Run, tmp_path: Path) -> None:
    def service(*arguments: str) -> str:
        why: str = json.loads(run(*arguments, "--json").stdout)["why"]
        return why.partition(": no such service")[0]

    file = tmp_path / "xds.toml"
    file.write_text('[xds]\nservices = ["chat"]\n[envoy]\nlisten = "0.0.0.0:1"\n')
    assert service("list", f"--config={file}") == "chat"
    file.write_text('[xds]\nservices = ["chat", "speech"]\n')
    result = run("list", f"--config={file}")
    assert result.exit_code == 2
    assert "expected --service, which is one of chat, speech" in result.stderr
    assert service("list", f"--config={file}", "--service=speech") == "speech"
    file.write_text(
        '[service]\nname = "chat"\n[triton]\nmodels = ["a"]\ncanaries = ["gone.toml"]\n'
    )
    assert service("list", f"--config={file}") == "chat"
