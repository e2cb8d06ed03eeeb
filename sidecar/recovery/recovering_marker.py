"""The marker file for systemd's units: the sidecar itself restarts Triton, and must keep running.

Stopping Triton's unit stops the sidecar first (`ExecStop=` in deploy/systemd). Without the marker,
the sidecar's own restarts would end the process that counts them: docs/systemd.md.

Acts: os.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

_NAME = "recovering"


@contextmanager
def recovering(environ: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Keep the file `recovering` in systemd's RUNTIME_DIRECTORY while the block runs.

    Without that folder there is no unit. systemd removes the folder with the service.
    """
    folder = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    marker = Path(folder) / _NAME if folder else None
    # Triton must be restarted even if the marker cannot be written.
    if marker:
        with suppress(OSError):
            marker.touch()
    try:
        yield
    finally:
        if marker:
            with suppress(OSError):
                marker.unlink()
