"""The loop that keeps the digest of the loaded model set.

Acts: asyncio.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial

from sidecar.health.probes.prober import TritonIdentity
from sidecar.health.progress import Loads
from sidecar.models import loaded_set
from sidecar.models.loaded_set import LoadedModel, LoadedSet, LoadId
from sidecar.models.manifest import ModelFiles, digest, files_digest, in_order
from sidecar.models.repository import Repository
from sidecar.models.rules import ModelSetRules
from sidecar.runtime.clock import Clock
from sidecar.runtime.errors import SidecarError
from sidecar.runtime.latest import Latest, first_of
from sidecar.runtime.threads import in_daemon_thread
from sidecar.triton.api import ModelDescription

Versions = tuple[str, ...]
Models = tuple[ModelDescription, ...]
Describe = Callable[[Models], Awaitable[Models]]
_NOTHING = LoadedSet()
_RETRY = 30.0  # seconds after a failed scan, at most


@dataclass(frozen=True, slots=True)
class ModelSetReports:
    """Where the watch reports.

    `failed` gets the reason why the files cannot be read, each time it changes, and "" once they
    can be read again. `changed_on_disk` gets the models whose files on disk are not the loaded
    ones, each time these change, and none once all are equal again.
    """

    failed: Callable[[str], None]
    changed_on_disk: Callable[[tuple[str, ...]], None]


class ModelSetWatch:
    """Keeps `digest` while it runs: the digest of the loaded model set, "" while it is unknown.

    `loaded` holds its models, each as of the load seen last. Files that change next to a model that
    stays loaded do not change the digest. For a Triton that has not loaded its models it is the
    digest of what Triton would load, where the files are at hand.

    Args:
        identity: what is served, as far as it is known.
        loads: which load of its models Triton is at.
        rules: the served models, and where their files are.
        clock: for pauses.
        reports: gets faults and differences.
        earlier: what an earlier sidecar knew to be loaded.
        describe: adds the steps and dependencies of served models, where there are no files.
    """

    def __init__(
        self,
        identity: Latest[TritonIdentity],
        loads: Latest[Loads],
        rules: ModelSetRules,
        clock: Clock,
        reports: ModelSetReports,
        earlier: LoadedSet = _NOTHING,
        describe: Describe | None = None,
    ) -> None:
        self.digest: Latest[str] = Latest("")
        self.loaded: Latest[tuple[LoadedModel, ...]] = Latest(earlier.models)
        self._identity = identity
        self._loads = loads
        self._models = rules.models
        self._interval = rules.interval
        self._clock = clock
        self._reports = reports
        self._remembered = earlier.models
        self._describe = describe
        self._repository = (
            Repository(rules.repository, clock.wall, rules.depends_on) if rules.repository else None
        )
        self._why = ""
        self._reported: tuple[str, ...] = ()

    async def run(self) -> None:
        """Keep the digest, until cancelled."""
        if self._repository is None:
            await self._follow_triton()
            return
        async with asyncio.TaskGroup() as both:
            both.create_task(self._invalidate())
            both.create_task(self._follow(self._repository))

    async def _follow_triton(self) -> None:
        """Keep the digest by Triton's descriptions; a model that is not served may reload alone."""
        while True:
            seen = self._seen()
            models = self._identity.value.models
            try:
                if models and self._describe:
                    models = await self._describe(models)
            except SidecarError as error:
                self.digest.set("")
                self._report(str(error))
            else:
                if self._seen() == seen:
                    self.digest.set(digest(models) if models else "")
                self._report("")
            await first_of(
                self._clock,
                _RETRY if self._why else None,
                self._identity.changed(seen[0]),
                self._loads.changed(seen[1]),
            )

    def known(self) -> tuple[LoadedModel, ...]:
        """The models of `loaded` for which no other load has been seen since."""
        return tuple(each for each in self.loaded.value if each.load == self._load(each.files.name))

    async def _invalidate(self) -> None:
        """Clear the digest as soon as other versions are served than it covers."""
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
            done = await self._scan(repository)
            await first_of(
                self._clock,
                self._interval if done else min(self._interval, _RETRY),
                self._identity.changed(seen[0]),
                self._loads.changed(seen[1]),
            )

    async def _scan(self, repository: Repository) -> bool:
        """Read the files once; gives whether they could be read.

        The result is discarded if a load has changed in the meantime. If the files of a new load
        cannot be read, the digest is unknown.
        """
        served, seen = self._served(), self._seen()
        try:
            found = await in_daemon_thread(partial(repository.read, served), "model files")
        except SidecarError as error:
            if self.known() != self.loaded.value:
                self.digest.set("")
            self._report(str(error))
            return False
        self._report("")
        if self._seen() == seen:
            self._take(found)
        return True

    def _take(self, found: tuple[ModelFiles, ...]) -> None:
        loads = {each.name: self._load(each.name) for each in found}
        kept = loaded_set.follow((*self._remembered, *self.loaded.value), found, loads)
        self.loaded.set(kept)
        self.digest.set(files_digest(each.files for each in kept))
        if (names := loaded_set.changed_on_disk(kept, found)) != self._reported:
            self._reported = names
            self._reports.changed_on_disk(names)

    def _load(self, model: str) -> LoadId | None:
        """A model's current load, None if it is not loaded; only served models are described."""
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
        """A model's load from the saved state, as long as it has not ended since."""
        seen = self._loads.value
        over = seen.restarts or seen.by_model.get(model, 1)
        known = (each.load for each in self._remembered if each.files.name == model)
        return None if over else next(known, None)

    def _served(self) -> dict[str, Versions | None]:
        described = {each.name: in_order(each.versions) for each in self._identity.value.models}
        return {name: described.get(name) or None for name in self._models}

    def _seen(self) -> tuple[int, int]:
        return self._identity.version, self._loads.version

    def _report(self, why: str) -> None:
        if why != self._why:
            self._why = why
            self._reports.failed(why)
