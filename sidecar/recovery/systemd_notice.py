"""The sign for systemd's units that the sidecar itself restarts Triton, and is to be left alone.

An orderly stop of Triton has the sidecar stopped first (`ExecStop=` in deploy/systemd). If that
were so for its own actions too, each would end the one who counts them: docs/systemd.md.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

_NAME = "recovering"


@contextmanager
def recovering(environ: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Have the file `recovering` in systemd's RUNTIME_DIRECTORY for as long as the block lasts.

    Without that folder there is no unit to be told. systemd removes it with the service.
    """
    folder = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    sign = Path(folder) / _NAME if folder else None
    # A sign that cannot be given is no reason to leave Triton as it is.
    if sign:
        with suppress(OSError):
            sign.touch()
    try:
        yield
    finally:
        if sign:
            with suppress(OSError):
                sign.unlink()
