"""The loop that keeps the digest of the model set that is loaded."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from sidecar.health.probes.prober import TritonIdentity
from sidecar.health.progress import Loads
from sidecar.models import loaded_set
from sidecar.models.loaded_set import LoadedModel, LoadedSet, LoadId
from sidecar.models.manifest import ModelFiles, digest, files_digest, in_order
from sidecar.models.repository import Repository
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import SidecarError
from sidecar.runtime.latest import Latest, first_of
from sidecar.runtime.threads import in_daemon_thread
from sidecar.triton.api import ModelDescription

Versions = tuple[str, ...]
Models = tuple[ModelDescription, ...]
Describe = Callable[[Models], Awaitable[Models]]
_NOTHING = LoadedSet()
_RETRY = 30.0  # seconds after a look that has failed, at most


class ModelSetWatch:
    """Keeps `digest` while it runs: of the model set that is loaded, "" while that is not known.

    `loaded` has the models that it is made of, each as of the load that was seen last.
    Files that are changed beside a model that stays loaded change nothing of it. Of a Triton that
    has not loaded its models it is the digest of those that it would load, where their files are
    at hand.

    Args:
        identity: what is served, as far as that is known.
        loads: which load of its models Triton is at.
        repository: Triton's model repository, or None where only Triton sees it.
        models: the names of the served models.
        interval: seconds between two looks at the files.
        clock: tells how long a pause is.
        failed: told why the files cannot be read, once each time that the reason is another, and
            "" when they can be read again.
        astray: told of the models whose files on disk are not those that are loaded, once each time
            that they are others; of none if all are.
        memory: what an earlier sidecar knew to be loaded.
        depends_on: the models that others call, which no file tells.
        describe: adds what served models are composed of or depend on, where there are no files.
    """

    def __init__(
        self,
        identity: Latest[TritonIdentity],
        loads: Latest[Loads],
        repository: Path | None,
        models: Sequence[str],
        interval: float,
        clock: Clock,
        failed: Callable[[str], None],
        astray: Callable[[tuple[str, ...]], None],
        memory: LoadedSet = _NOTHING,
        depends_on: Mapping[str, Sequence[str]] = MappingProxyType({}),
        describe: Describe | None = None,
    ) -> None:
        self.digest: Latest[str] = Latest("")
        self.loaded: Latest[tuple[LoadedModel, ...]] = Latest(memory.models)
        self._identity = identity
        self._loads = loads
        self._models = tuple(models)
        self._interval = interval
        self._clock = clock
        self._failed = failed
        self._astray = astray
        self._remembered = memory.models
        self._describe = describe
        self._repository = Repository(repository, clock.wall, depends_on) if repository else None
        self._why = ""
        self._told: tuple[str, ...] = ()

    async def run(self) -> None:
        """Keep the digest, until cancelled."""
        if self._repository is None:
            await self._follow_triton()
            return
        async with asyncio.TaskGroup() as both:
            both.create_task(self._doubt())
            both.create_task(self._follow(self._repository))

    async def _follow_triton(self) -> None:
        """Keep the digest of what Triton says; what is not served may be loaded anew by itself."""
        while True:
            seen = self._seen()
            models = self._identity.value.models
            try:
                if models and self._describe:
                    models = await self._describe(models)
            except SidecarError as error:
                self.digest.set("")
                self._tell(str(error))
            else:
                if self._seen() == seen:
                    self.digest.set(digest(models) if models else "")
                self._tell("")
            await first_of(
                self._clock,
                _RETRY if self._why else None,
                self._identity.changed(seen[0]),
                self._loads.changed(seen[1]),
            )

    def known(self) -> tuple[LoadedModel, ...]:
        """What of `loaded` nothing speaks against by now: no other load was seen."""
        return tuple(each for each in self.loaded.value if each.load == self._load(each.files.name))

    async def _doubt(self) -> None:
        """Take the digest back as soon as it is that of other versions than those served."""
        async for _ in self._identity:
            kept = {each.files.name: each.files.versions for each in self.loaded.value}
            if any(
                versions is not None and versions != kept.get(name)
                for name, versions in self._served().items()
            ):
                self.digest.set("")

    async def _follow(self, repository: Repository) -> None:
        while True:
            seen = self._seen()
            done = await self._look(repository)
            await first_of(
                self._clock,
                self._interval if done else min(self._interval, _RETRY),
                self._identity.changed(seen[0]),
                self._loads.changed(seen[1]),
            )

    async def _look(self, repository: Repository) -> bool:
        """Look at the files once; gives whether they could be read.

        What they say is forgotten if others are loaded by now. If nothing can be read of those
        that are, nobody knows which they are.
        """
        served, seen = self._served(), self._seen()
        try:
            found = await in_daemon_thread(partial(repository.read, served), "model files")
        except SidecarError as error:
            if self.known() != self.loaded.value:
                self.digest.set("")
            self._tell(str(error))
            return False
        self._tell("")
        if self._seen() == seen:
            self._take(found)
        return True

    def _take(self, found: tuple[ModelFiles, ...]) -> None:
        loads = {each.name: self._load(each.name) for each in found}
        kept = loaded_set.follow((*self._remembered, *self.loaded.value), found, loads)
        self.loaded.set(kept)
        self.digest.set(files_digest(each.files for each in kept))
        if (names := loaded_set.astray(kept, found)) != self._told:
            self._told = names
            self._astray(names)

    def _load(self, model: str) -> LoadId | None:
        """Which load a model is of; what an ensemble is composed of is not described to us."""
        described = {each.name: each for each in self._identity.value.models}
        if not described or (model in self._models and model not in described):
            return self._still_loaded(model)
        seen, own = self._loads.value, described.get(model)
        load = LoadId(seen.restarts, seen.number(model))
        if own is None:
            return load
        config = hashlib.sha256(own.config).hexdigest()
        return replace(load, versions=in_order(own.versions), config=config)

    def _still_loaded(self, model: str) -> LoadId | None:
        """The load that is remembered of a model, while nothing tells that it is over."""
        seen = self._loads.value
        over = seen.restarts or seen.by_model.get(model, 1)
        known = (each.load for each in self._remembered if each.files.name == model)
        return None if over else next(known, None)

    def _served(self) -> dict[str, Versions | None]:
        described = {each.name: in_order(each.versions) for each in self._identity.value.models}
        return {name: described.get(name) or None for name in self._models}

    def _seen(self) -> tuple[int, int]:
        return self._identity.version, self._loads.version

    def _tell(self, why: str) -> None:
        if why != self._why:
            self._why = why
            self._failed(why)
