"""A real mesh for tests: operations on its parts, and assertions about the outcome."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sidecar.drill.load.process import RunningLoad
from sidecar.drill.load.spec import LoadSpec
from sidecar.drill.stage.mesh import MeshStage
from sidecar.local import load, timeline
from sidecar.local.processes import state_file
from tests.support.mesh.mesh_outside import until
from tests.support.soak import pause, times


@dataclass
class LiveMesh(MeshStage):
    """A mesh that tests share. `newest` is the load of a drill that was put on it last."""

    newest: RunningLoad | None = field(default=None, init=False, compare=False)

    @asynccontextmanager
    async def loaded(
        self, spec: LoadSpec, *, began: float, seed: int, cached: bool = False
    ) -> AsyncIterator[RunningLoad]:
        """Put load on it, through Envoy, while the context lasts."""
        async with super().loaded(spec, began=began, seed=seed, cached=cached) as running:
            self.newest = running
            yield running

    def states(self, sidecar: str, since: int) -> list[str]:
        """The states of the verdicts that a sidecar logged after that many bytes, in order."""
        events = self.events(sidecar, since)
        verdicts = [each["after"] for each in events if each["event"] == "verdict_changed"]
        return [verdict.partition(" ")[0] for verdict in verdicts]

    async def registered_anew(self, instance: str, since: int) -> None:
        """Wait until a sidecar has written, after that many bytes, that it registered itself."""
        part = self.sidecar_of(instance)
        await until(
            lambda: [event for event in self.events(part, since) if event["event"] == "registered"],
            f"a new registration of {instance}",
        )

    def restarted(self, part: str, pid: int) -> bool:
        """Whether a part has another process than this one.

        A Triton whose own crash ended it does not count: one that is thawed may segfault.
        """
        found = state_file.load(self.folder)
        assert found
        [state] = (state for state in found.parts if state.name == part)
        crashed = state.kind == "triton" and state.exit == -signal.SIGSEGV
        return self.pid(part) != pid and not crashed

    # --- load -------------------------------------------------------------------------------

    @asynccontextmanager
    async def under_load(
        self,
        *,
        unary: int = times(8, soaking=32),
        streams: int = times(2, soaking=4),
        traffic: bool = False,
    ) -> "AsyncIterator[Scene]":
        """Start from a mesh that is well, and keep clients busy while the context lasts.

        When it ends, requests in flight have come to their end, and are counted.

        Args:
            unary: clients that ask one question after the other.
            streams: clients that let one generation follow the other.
            traffic: whether the timeline shows who answers, too; Envoy is asked 50 times a second.
        """
        await self.steady()
        mesh = self.now
        reference = mesh.instances[0].triton.grpc
        clients = load.load(
            mesh.envoy.grpc, reference, unary=unary, streams=streams, pause=pause(unary)
        )
        async with timeline.follow(mesh, traffic=traffic) as seen, clients as running:
            scene = Scene(self, seen, running)
            await until(lambda: seen.primary, "a primary")
            await scene.flows()
            yield scene


@dataclass
class Scene:
    """A loaded mesh to which something is done."""

    mesh: LiveMesh
    timeline: timeline.Timeline
    load: load.Load

    @property
    def primary(self) -> str:
        assert self.timeline.primary is not None
        return self.timeline.primary

    async def flows(self, answers: int = times(40, soaking=100)) -> None:
        """Wait until each kind of client has got some more answers."""
        unary, streams = self.load.unary, self.load.streams
        before = len(unary.done), len(streams.done)
        await until(
            lambda: len(unary.done) >= before[0] + answers and len(streams.done) > before[1],
            "answers for all clients",
        )

    async def becomes(self, instance: str, status: str) -> None:
        """Wait until Consul has this status for an instance."""
        await until(lambda: self.timeline.verdicts.get(instance) == status, f"{instance} {status}")

    async def succeeded(self, victim: str, epoch: int) -> str:
        """Wait until another instance is primary, with a higher epoch; gives its id."""

        def succeeded() -> bool:
            new = self.timeline.primary
            return new not in (None, victim) and self.timeline.epoch > epoch

        await until(succeeded, f"a primary after {victim} of epoch {epoch}")
        return self.primary

    def primaries(self, after: float) -> list[str]:
        """The instances that took the lock after a moment, in order."""
        return self._who("primary", after)

    def answering(self, after: float) -> set[str]:
        """The instances that answered requests after a moment, if the load follows `traffic`."""
        return set(self._who("traffic", after))

    def _who(self, kind: str, after: float) -> list[str]:
        seen = self.timeline.sightings
        return [found.instance for found in seen if found.kind == kind and found.at >= after]


def newest_load(stage: MeshStage) -> RunningLoad:
    """The load of a drill that was put on a mesh of tests last."""
    assert isinstance(stage, LiveMesh)
    assert stage.newest
    return stage.newest


def unharmed(running: load.Load, *, streams: bool = True) -> None:
    """No request failed and no answer was wrong; a generation may be cut only if so said."""
    assert running.unary.failed == []
    assert running.unary.wrong == []
    assert running.streams.wrong == []
    if streams:
        assert running.streams.failed == []
    assert running.unary.done
