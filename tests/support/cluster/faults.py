"""The faults that are injected into a cluster under load, and how a series is drawn.

Each leaves a healthy instance that Envoy can reach, so none may fail a unary request.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import permutations

from tests.support.cluster.cluster import Cluster, Cut
from tests.support.cluster.layout import SESSION_TTL, beside
from tests.support.mesh.mesh_outside import until

# Injects a fault into an instance or its host for some seconds, and removes it.
Deed = Callable[[Cluster, str, float], Awaitable[None]]

_GAP = 0.3  # seconds between kills in a row: shorter than until a restart
_BLINK = 2.0  # seconds: too short for Consul to declare the node dead


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault.

    A series draws one of the durations in `lasts`, in seconds. `cuts_streams`: the victim's Triton
    dies or is unreachable, so its running generations are cut.
    """

    name: str
    deed: Deed
    lasts: tuple[float, ...] = (0.0,)
    cuts_streams: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """A fault of a series. `victim` is the number of an instance, or None for the primary."""

    fault: Fault
    seconds: float
    victim: int | None

    def __str__(self) -> str:
        whom = "the primary" if self.victim is None else f"triton-{self.victim}"
        return f"{self.fault.name}, {whom}, {self.seconds:g} s"


def draw(seed: int, count: int, instances: int) -> Sequence[Step]:
    """A series, the same for the same seed; two of three faults are of the primary."""
    chance = random.Random(seed)

    def step() -> Step:
        fault = chance.choice(FAULTS)
        victim = chance.randrange(instances) if chance.random() < 1 / 3 else None
        return Step(fault, chance.choice(fault.lasts), victim)

    return [step() for _ in range(count)]


# --- injections -------------------------------------------------------------------------------


async def _leader_killed(mesh: Cluster, victim: str, seconds: float) -> None:
    leader = await mesh.leader()
    with mesh.away(leader):
        await mesh.other_leader(leader)
        await asyncio.sleep(seconds)


async def _server_killed(mesh: Cluster, victim: str, seconds: float) -> None:
    leader = await mesh.leader()
    await _killed_one(next(server for server in mesh.servers if server != leader), mesh)


def _cut(what: Cut) -> Deed:
    """For some seconds; for 0, until Consul has declared the node dead, after about six."""

    async def cut(mesh: Cluster, victim: str, seconds: float) -> None:
        mesh.cut(beside(victim, "host"), what)
        if seconds:
            await asyncio.sleep(seconds)
        else:
            await until(lambda: mesh.reason(victim), f"Consul gives {victim} up")
        mesh.heal()

    return cut


async def _sidecar_frozen(mesh: Cluster, victim: str, seconds: float) -> None:
    part = beside(victim, "sidecar")
    mesh.freeze(part)
    await asyncio.sleep(seconds)
    mesh.thaw(part)


def _killed(*kinds: str) -> Deed:
    async def killed(mesh: Cluster, victim: str, seconds: float) -> None:
        async with asyncio.TaskGroup() as deaths:
            for kind in kinds:
                deaths.create_task(_killed_one(beside(victim, kind), mesh))
                await asyncio.sleep(_GAP)

    return killed


async def _agents_restarted(mesh: Cluster, victim: str, seconds: float) -> None:
    before = {agent: mesh.lives(agent) for agent in mesh.agents}
    for agent in mesh.agents:
        mesh.restart(agent)
    await until(
        lambda: all(mesh.lives(agent) > lives for agent, lives in before.items()), "new agents"
    )


async def _killed_one(part: str, mesh: Cluster) -> None:
    before = mesh.lives(part)
    mesh.kill(part)
    await until(lambda: mesh.lives(part) > before, f"a new {part}")


# --- the table --------------------------------------------------------------------------------

_HOST = ("sidecar", "agent", "triton")
LEADER_KILLED = Fault("leading server killed", _leader_killed)
SERVER_KILLED = Fault("another server killed", _server_killed)
CUTS = (
    Fault("cut from Consul", _cut("consul"), (0.0, _BLINK)),
    Fault("cut from Envoy", _cut("data"), (5.0, _BLINK), cuts_streams=True),
    Fault("cut from both", _cut("both"), (0.0, _BLINK), cuts_streams=True),
)
SIDECAR_FROZEN = Fault("sidecar frozen", _sidecar_frozen, (3.0 * SESSION_TTL,))
KILLED = tuple(
    Fault(f"killed: {', '.join(order)}", _killed(*order), cuts_streams=True)
    for order in permutations(_HOST)
)
AGENTS_RESTARTED = Fault("all agents restarted", _agents_restarted)

# The faults of a series; killing all three is one of them, in one of its six orders.
FAULTS = (
    LEADER_KILLED,
    *CUTS,
    Fault("sidecar frozen", _sidecar_frozen, (_BLINK, 5.0)),
    AGENTS_RESTARTED,
    SERVER_KILLED,
    *(Fault(f"killed: {kind}", _killed(kind), cuts_streams=kind == "triton") for kind in _HOST),
    Fault("killed: all three", _killed(*_HOST), cuts_streams=True),
)
