"""Stages a fault on a mesh under load; reports what the sidecar logged and clients saw."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from sidecar.local import timeline
from sidecar.local.load import Load
from tests.support.faults.faults import CLIENTS, STREAMS, Fault
from tests.support.faults.faulty_load import faulty_load
from tests.support.mesh.mesh import LiveMesh
from tests.support.mesh.mesh_outside import until
from tests.support.tcp_proxy import proxied

_PATIENCE = 120.0  # seconds after which a verdict that must come is not waited for any more
_NOTICE = 15.0  # seconds in which one may come that need not
_ANSWERS = 50  # that clients get between the verdict and the healing, at least
_AFTERWARDS = 3.0  # further seconds of load there, to count what fails
_LOOK = 0.1  # seconds between two looks at a log


@dataclass(frozen=True, slots=True)
class Said:
    """A verdict, or the refusal to reload, that a sidecar has written down.

    `at` is in seconds after the deed was done; `reason` and `detail` are empty for a refusal's.
    """

    at: float
    state: str
    reason: str
    detail: str

    @property
    def refusal(self) -> bool:
        """Whether it is the refusal to take over new settings."""
        return self.state == REFUSED


REFUSED = "reload refused"


@dataclass(slots=True)
class Outcome:
    """What came of a fault. Tallies hold what ended before the verdict, and after it.

    `healed` is when the fault was undone, in seconds after it was done: what is said later is about
    the undoing.
    """

    fault: Fault
    victim: str
    said: list[Said]
    healed: float
    before: Load
    after: Load
    primaries: list[str]

    @property
    def decisive(self) -> Said | None:
        """The first word that is right about the fault, or else the first of the right state."""
        return decisive(self.fault, [one for one in self.said if one.at <= self.healed])

    @property
    def intervals(self) -> float | None:
        """Time to the verdict beyond the fault's window, in intervals of the layer that sees it."""
        found = self.decisive
        return max(found.at - self.fault.window, 0.0) / self.fault.interval if found else None

    @property
    def trouble(self) -> list[str]:
        """In what the outcome is not what the fault must come to."""
        fault, found = self.fault, []
        if fault.must_be_noticed and self.decisive is None:
            found.append(f"expected {fault.state or REFUSED}, seen {self.said}")
        if self.decisive and fault.state and self.decisive.reason not in fault.reasons:
            found.append(f"expected one of {sorted(fault.reasons)}, seen {self.decisive}")
        if fault.state != "CRITICAL":
            found += [f"expected no {one}" for one in self.said if one.state == "CRITICAL"]
        if not fault.state:
            found += [f"expected no {one}" for one in self.said if not one.refusal]
        if not fault.reaches_clients:
            for tally in (self.before.unary, self.after.unary):
                noticed = (*tally.failed, *tally.wrong)
                found += [f"a client noticed: {failure.what}" for failure in noticed]
        return found


def decisive(fault: Fault, said: list[Said]) -> Said | None:
    """The first word that is right about the fault, or else the first of the right state."""
    alike = [one for one in said if one.state == (fault.state or REFUSED)]
    right = [one for one in alike if one.reason in fault.reasons]
    return next(iter(right or alike), None)


async def play(
    mesh: LiveMesh,
    fault: Fault,
    *,
    unary: int = CLIENTS,
    streams: int = STREAMS,
    afterwards: float = _AFTERWARDS,
    pause: float = 0.0,
) -> Outcome:
    """Do it to the primary, wait for the verdict, undo it, and wait until all is well again."""
    if fault.proxied:
        async with proxied(mesh) as behind:
            return await _play(behind, fault, unary, streams, afterwards, pause)
    return await _play(mesh, fault, unary, streams, afterwards, pause)


async def _play(
    mesh: LiveMesh, fault: Fault, unary: int, streams: int, afterwards: float, pause: float
) -> Outcome:
    async with loaded(mesh, unary=unary, streams=streams, pause=pause) as (seen, load):
        victim = seen.primary or ""
        part = mesh.sidecar_of(victim)
        since, began = mesh.written(part), time.monotonic()
        async with fault.stage(mesh, victim):
            clock, deed = time.time(), time.monotonic()
            await _notice(mesh, fault, part, since, clock)
            await flows(load, _ANSWERS, streams=False)
            await asyncio.sleep(afterwards)
            healed = time.time() - clock
        await mesh.steady()
        said = sayings(mesh, part, since, clock)
        primaries = [
            found.instance for found in seen.sightings
            if found.kind == "primary" and found.at >= began
        ]  # fmt: skip
    outcome = Outcome(fault, victim, said, healed, Load(), Load(), primaries)
    found, ended = outcome.decisive, time.monotonic()
    border = max(began, deed + found.at) if found else ended
    outcome.before = _between(load, began, border)
    outcome.after = _between(load, border, ended)
    return outcome


async def _notice(mesh: LiveMesh, fault: Fault, part: str, since: int, clock: float) -> None:
    """Wait for the verdict that the fault must cause, within a limit."""
    patience = _PATIENCE if fault.must_be_noticed else _NOTICE
    deadline = time.monotonic() + patience
    while not _right(fault, sayings(mesh, part, since, clock)) and time.monotonic() < deadline:
        await asyncio.sleep(_LOOK)


def _right(fault: Fault, said: list[Said]) -> bool:
    found = decisive(fault, said)
    return found is not None and (not fault.state or found.reason in fault.reasons)


def sayings(mesh: LiveMesh, part: str, since: int, clock: float) -> list[Said]:
    """What a sidecar has written after so many bytes of its log about itself; `clock` is 0 s."""
    found = []
    for event in mesh.events(part, since):
        at = datetime.fromisoformat(event["timestamp"]).timestamp() - clock
        if event["event"] == "verdict_changed":
            head, _, detail = event["after"].partition(": ")
            state, _, reason = head.partition(" ")
            found.append(Said(at, state, reason, detail))
        elif event["event"] == "reload_failed":
            found.append(Said(at, REFUSED, "", event["error"]))
    return found


def _between(load: Load, start: float, end: float) -> Load:
    return Load(load.unary.between(start, end), load.streams.between(start, end))


@asynccontextmanager
async def loaded(
    mesh: LiveMesh, *, unary: int = CLIENTS, streams: int = STREAMS, pause: float = 0.0
) -> AsyncIterator[tuple[timeline.Timeline, Load]]:
    """Start from a mesh that is well, and keep clients busy while the context lasts."""
    await mesh.steady()
    now = mesh.now
    clients = faulty_load(
        now.envoy.grpc, now.instances[0].triton.grpc, unary=unary, streams=streams, pause=pause
    )
    async with timeline.follow(now, traffic=False) as seen, clients as load:
        await until(lambda: seen.primary, "a primary")
        await flows(load, streams=bool(streams))
        yield seen, load


async def flows(load: Load, answers: int = 100, *, streams: bool = True) -> None:
    """Wait until each kind of client has got some more answers."""
    before = len(load.unary.done), len(load.streams.done)

    def enough() -> bool:
        more = len(load.streams.done) > before[1] or not streams
        return more and len(load.unary.done) >= before[0] + answers

    await until(enough, "answers for all clients")
