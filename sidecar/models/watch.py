"""The loop that keeps the digest of the model set."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from sidecar.clock import Clock
from sidecar.errors import SidecarError
from sidecar.health.probe import Identity
from sidecar.latest import Latest, first_of
from sidecar.models.manifest import ModelFiles, digest, files_digest, in_order
from sidecar.models.repository import Repository

_EVERY = 30.0  # seconds between looks at the files


class ModelSetWatch:
    """Keeps `digest` while it runs: of the model set that is served, "" while that is not known.

    Of a Triton that has not loaded its models it is the digest of those that it would load, where
    their files are at hand.

    Args:
        identity: what is served, as far as that is known.
        repository: Triton's model repository, or None where only Triton sees it.
        models: the names of the served models.
        clock: tells how long a pause is.
        failed: told why the files cannot be read, once each time that the reason is another, and
            "" when they can be read again.
    """

    def __init__(
        self,
        identity: Latest[Identity],
        repository: Path | None,
        models: Sequence[str],
        clock: Clock,
        failed: Callable[[str], None],
    ) -> None:
        self.digest: Latest[str] = Latest("")
        self._identity = identity
        self._models = tuple(models)
        self._clock = clock
        self._failed = failed
        self._repository = Repository(repository, clock.wall) if repository else None
        self._read: tuple[ModelFiles, ...] = ()
        self._why = ""

    async def run(self) -> None:
        """Keep the digest, until cancelled."""
        if self._repository is None:
            async for identity in self._identity:
                self.digest.set(digest(identity.models) if identity.models else "")
            return
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._doubt())
                both.create_task(self._follow(self._repository))
        finally:
            self._repository.stop()  # or the process waits at its end until all is read

    async def _doubt(self) -> None:
        """Take the digest back as soon as it is that of other versions than those served."""
        async for _ in self._identity:
            loaded = {model.name: model.versions for model in self._read}
            if any(
                versions is not None and versions != loaded.get(name)
                for name, versions in self._served().items()
            ):
                self.digest.set("")

    async def _follow(self, repository: Repository) -> None:
        while True:
            seen = self._identity.version
            await self._look(repository)
            await first_of(self._clock, _EVERY, self._identity.changed(seen))

    async def _look(self, repository: Repository) -> None:
        """Look at the files once; what they say is forgotten if other models are served by now."""
        served, seen = self._served(), self._identity.version
        try:
            read = await asyncio.to_thread(repository.read, served)
        except SidecarError as error:
            self._tell(str(error))
            return
        self._tell("")
        if self._identity.version == seen:
            self._read = read
            self.digest.set(files_digest(read))

    def _served(self) -> dict[str, tuple[str, ...] | None]:
        loaded = {model.name: in_order(model.versions) for model in self._identity.value.models}
        return {name: loaded.get(name) or None for name in self._models}

    def _tell(self, why: str) -> None:
        if why != self._why:
            self._why = why
            self._failed(why)
