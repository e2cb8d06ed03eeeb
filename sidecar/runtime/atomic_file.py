"""Atomic replacement of files.

Acts: os, tempfile.
"""

import os
import tempfile
from pathlib import Path


def replace(path: Path, document: bytes) -> None:
    """Replace a file atomically and durably: a reader sees the old document or the new one.

    Raises:
        OSError: it failed; the old file is unchanged.
    """
    # The process that this one replaces may still be writing too.
    number, name = tempfile.mkstemp(".new", f".{path.name}.", path.parent)
    new = Path(name)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(document)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # so that the name survives a power failure too
    finally:
        os.close(folder)
