"""Files that are there whole or not at all."""

import os
import tempfile
from pathlib import Path


def replace(path: Path, document: bytes) -> None:
    """Put a new file in place of the old one: a reader sees one or the other, whole.

    Raises:
        OSError: the old one is still there.
    """
    # Another process may be writing too: one that is being replaced by us.
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
        os.fsync(folder)  # the name, too, survives a loss of power
    finally:
        os.close(folder)
