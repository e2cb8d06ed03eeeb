"""The operator's commands on a real agent: their output for people, at a terminal and as JSON."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from typer.testing import Result

from sidecar.cli.operator import json_output, switchover
from sidecar.consul.api import Set
from sidecar.election.keys import orders
from sidecar.operator import operator_client, plans
from sidecar.operator.order_progress import Step
from sidecar.runtime.errors import Interrupted
from tests.support.consul_agent import ConsulAgent
from tests.support.operator_rig import Run, Scene, on_agent, sidecars
from tests.support.operator_rig import run as run
from tests.support.operator_rig import scene as scene

pytestmark = pytest.mark.contract
AGENT_IS_ENOUGH = True


@pytest.mark.parametrize(
    ("step", "ends"),
    [
        (1, "stopped waiting; the order stands"),
        (4, "b is primary, epoch "),
        (5, ""),
    ],
)
async def test_ctrl_c_reports_how_far_the_order_has_come(
    scene: Scene, capsys: pytest.CaptureFixture[str], step: int, ends: str
) -> None:
    async with sidecars(scene, "a", "b") as (_, b):

        class Show(json_output.MoveObject):
            def step(self, done: Step) -> None:
                super().step(done)
                if len(self._steps) == step:
                    moving.cancel()

        moving = asyncio.ensure_future(
            switchover._order(scene.client, scene.request(), plans.switchover, 60, Show())
        )
        if ends:
            with pytest.raises(Interrupted) as caught:
                await moving
            assert ends in str(caught.value).replace(f"{scene.service}-", "")
            assert capsys.readouterr().out == ""  # the caller prints the object
        else:
            await moving
            document = json.loads(capsys.readouterr().out)
            assert (document["done"], document["primary"]) == (True, b.id)
        await scene.until_primary(b.id)


async def test_the_output_of_each_command(run: Run, consul_agent: ConsulAgent) -> None:
    async with on_agent(consul_agent) as scene, sidecars(scene, "a", "b") as (a, b):

        async def call(*arguments: str) -> Result:
            return await asyncio.to_thread(run, *arguments, f"--service={scene.service}")

        async def json_of(*arguments: str) -> Any:
            return json.loads((await call(*arguments, "--json")).stdout)

        listed = await call("list")
        assert f"{scene.service}: {a.id} is primary, epoch " in listed.output
        assert listed.exit_code == 0
        document = await json_of("list")
        assert [row["role"] for row in document["instances"]] == ["primary", "standby"]
        assert (document["done"], document["primary"]) == (True, a.id)

        dry = await json_of("failover", "--dry-run")
        assert (dry["winner"], dry["done"], dry["dry_run"]) == (b.id, False, True)
        refused = await call("failover")
        assert refused.exit_code == 1
        (line,) = refused.stderr.splitlines()
        assert line.startswith(f"triton-sidecar: {a.id} is primary")

        moved = await call("switchover", "--reason=new kernel")
        assert moved.exit_code == 0, moved.output
        assert "s  ordered\n" in moved.output
        assert f"{b.id} is primary, epoch" in moved.output
        assert "new kernel" in (await call("history")).output
        document = await json_of("history", "-n", "1")
        assert [(each["from"], each["to"]) for each in document["history"]] == [(a.id, b.id)]

        later = await call("switchover", "--in=10m", "--to", a.id)
        assert later.exit_code == 0
        assert "`flush switchover` cancels it" in later.output
        document = await json_of("list")
        assert document["order"]["to"] == a.id
        again = await json_of("switchover")
        assert again["done"] is False
        assert f"to {a.id} by " in again["why"]
        assert "cancelled: switchover to" in (await call("flush", "switchover")).output
        nothing = await call("flush", "switchover")
        assert (nothing.exit_code, nothing.output) == (0, "no order is pending\n")

        await call("pause", "--for=2h", "--reason=fabric")
        assert "it was paused already" in (await call("pause", "--reason=fabric 2")).output
        assert ": fabric 2" in (await call("list")).output
        assert (await json_of("list"))["paused"]["reason"] == "fabric 2"
        assert "resumed; it was paused by" in (await call("resume")).output
        running = await call("resume")
        assert (running.exit_code, running.output) == (0, "automation was not paused\n")

        # A service without instances is listed while it has keys.
        other = Scene(scene.consul)
        await scene.consul.transact(Set(orders.pause_key(other.service), b"{}"))
        left = await asyncio.to_thread(run, "list", f"--service={other.service}")
        assert left.exit_code == 0
        assert left.output.startswith(f"{other.service}: ")
        empty = await asyncio.to_thread(run, "history", f"--service={other.service}")
        assert (empty.exit_code, empty.output) == (0, "no instance has been primary yet\n")

        # A failed order lists the steps that were done.
        a.proof = "chat: CANARY_WRONG"
        failed = await call("switchover", "--json")
        assert failed.exit_code == 1
        document = json.loads(failed.stdout)
        assert "CANARY_WRONG" in document["why"]
        assert document["steps"][0]["what"] == "ordered"


async def test_force_asks_for_confirmation_at_a_terminal(consul_agent: ConsulAgent) -> None:
    async with on_agent(consul_agent) as scene, sidecars(scene, "a", "b") as (a, b):
        no, output = await at_terminal(consul_agent, "n\n", f"--service={scene.service}")
        assert no == 1
        assert f"note: {a.id} serves" in output
        assert f"make {b.id} primary by force? [y/N] " in output
        assert "not confirmed; nothing was written" in output
        assert await scene.primary() == a.id
        assert (await operator_client.read_status(scene.client)).state.order is None
        yes, output = await at_terminal(consul_agent, "y\n", f"--service={scene.service}")
        assert yes == 0, output
        assert output.count(f"note: {a.id} ") == 1
        assert await scene.primary() == b.id


async def test_force_is_cancelled_if_the_primary_changed_before_the_confirmation(
    consul_agent: ConsulAgent,
) -> None:
    async with on_agent(consul_agent) as scene, sidecars(scene, "a", "b", "c") as (_, b, c):

        async def move() -> None:
            assert await scene.move(plans.switchover, scene.request(to=c.id)) == c.id

        where = f"--service={scene.service}", f"--to={b.id}"
        status, output = await at_terminal(consul_agent, "y\n", *where, meanwhile=move)
        assert status == 1
        _, _, answered = output.partition("[y/N] ")
        assert f"{c.id} " in answered
        assert await scene.primary() == c.id
        assert (await operator_client.read_status(scene.client)).state.order is None


async def test_an_interrupted_command_still_prints_one_json_object(
    consul_agent: ConsulAgent,
) -> None:
    async with on_agent(consul_agent) as scene, sidecars(scene, "a", "b") as (_, b):
        b.proof = None  # it never proves itself
        process = await asyncio.create_subprocess_exec(
            # A shell ignores SIGINT in background jobs, and child processes inherit that.
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
        assert document["why"].startswith("stopped waiting")
        assert said.decode() == f"triton-sidecar: {document['why']}\n"
        assert (await operator_client.read_status(scene.client)).state.order


async def _nothing() -> None:
    pass


async def at_terminal(
    agent: ConsulAgent,
    answer: str,
    *arguments: str,
    meanwhile: Callable[[], Awaitable[None]] = _nothing,
) -> tuple[int, str]:
    """The exit status and output of `failover --force` when its question gets this answer.

    `meanwhile` runs between the question and the answer.
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
    with suppress(OSError):  # EIO: on Linux the end of a terminal
        while more := await asyncio.to_thread(os.read, ours, 4096):
            said += more
    os.close(ours)
    return await process.wait(), said.decode()


def test_a_dry_run_without_a_winner_fails(run: Run) -> None:
    result = run("failover", "--dry-run", "--service=nobody")
    assert result.exit_code == 1
    assert "no instance would win" in result.output
