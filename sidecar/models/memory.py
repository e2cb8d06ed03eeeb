"""Keeps what is loaded in a file, for a sidecar that is started beside a running Triton.

Nothing that goes wrong here stops a sidecar.
"""

from collections.abc import Callable
from pathlib import Path

from sidecar import atomic
from sidecar.models import loaded
from sidecar.models.loaded import Memory

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_LARGEST = 256 * 2**20  # bytes


class MemoryFile:
    """One file.

    Args:
        path: where it is; None remembers nothing.
        failed: told why it cannot be read or written, or "" when it was written again, once each
            time that this is another.
    """

    def __init__(self, path: Path | None, failed: Callable[[str], None]) -> None:
        self._path = path
        self._failed = failed
        self._boot = _boot()
        self._why = ""

    def read(self) -> Memory:
        """What was remembered, if that is of use."""
        if self._path is None:
            return Memory()
        try:
            if not self._path.is_file() or self._path.stat().st_size > _LARGEST:
                return Memory()
            return loaded.restore(self._path.read_bytes(), self._boot)
        except OSError as error:
            self._tell(f"{self._path}: {error.strerror}")
            return Memory()

    def write(self, memory: Memory) -> None:
        """Remember it; blocks."""
        if self._path is None:
            return
        own = Memory(self._boot, memory.models, memory.counted)
        try:
            atomic.replace(self._path, loaded.dump(own))
        except OSError as error:
            self._tell(f"{self._path}: {error.strerror}")
        else:
            self._tell("")

    def _tell(self, why: str) -> None:
        if why != self._why:
            self._why = why
            self._failed(why)


def _boot() -> str:
    """What tells this start of the machine from others, where it can be told."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
