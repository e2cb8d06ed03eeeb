"""What a Triton runs its Python models in, as values, and what the door to that promises. Pure."""

import re
from typing import NamedTuple, Protocol


class Stub(NamedTuple):
    """A process that runs one instance of a model for Triton, as its command line names both.

    `folder` is the name of the model's folder; empty if the model's code is that of a backend.
    """

    pid: int
    folder: str
    instance: str

    def runs(self, model: str) -> bool:
        """Whether it runs an instance of a model, and does not only read its configuration."""
        if self.folder:
            return self.folder == model and self.instance != model
        return re.fullmatch(rf"{re.escape(model)}_\d+_\w+", self.instance) is not None


class StubsApi(Protocol):
    """The stubs of one Triton, as far as this user may see them on this machine."""

    async def look(self) -> tuple[Stub, ...] | None:
        """Those that run now; None if Triton's processes cannot be seen, which proves nothing."""

    async def ended(self) -> None:
        """Return when one that the last look saw has ended; at once if one did since."""

    def close(self) -> None:
        """Watch none any more."""
