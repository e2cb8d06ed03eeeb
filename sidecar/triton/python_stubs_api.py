"""The stub processes of Triton's Python backend as values, and `StubsApi`. Pure."""

import re
from typing import NamedTuple, Protocol


class Stub(NamedTuple):
    """A process that runs one instance of a model for Triton, as its command line says.

    `folder` is the name of the model's folder; empty if a backend provides the model's code.
    """

    pid: int
    folder: str
    instance: str

    def runs(self, model: str) -> bool:
        """Whether it runs an instance of a model, rather than only reads its configuration."""
        if self.folder:
            return self.folder == model and self.instance != model
        return re.fullmatch(rf"{re.escape(model)}_\d+_\w+", self.instance) is not None


class StubsApi(Protocol):
    """The stubs of one Triton on this machine, as far as this user may see them."""

    async def scan(self) -> tuple[Stub, ...] | None:
        """The running stubs; None if Triton's processes cannot be seen, which proves nothing."""

    async def ended(self) -> None:
        """Return when a stub of the last `scan` has ended; at once if one already has."""

    def close(self) -> None:
        """Stop watching."""
