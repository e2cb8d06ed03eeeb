"""Root file systems of Debian packages for tests, fetched into `.parts` as Consul is.

What pins one is the suite, a stable release, and its signature, which apt verifies: a mirror keeps
no older point releases. It is complete or absent: its folder is renamed into place last.
"""

import os
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from sidecar.local.programs import debian, parts
from sidecar.runtime.errors import PartMissing, Unavailable


def provide(
    name: str,
    packages: Sequence[str],
    suite: str,
    furnish: Callable[[Path], None],
    made_by: str,
) -> Path:
    """The folder of a root file system, fetched and furnished when it is not here yet.

    `made_by` is the file that describes it: with other contents it gets another folder.

    Raises:
        PartMissing: it cannot be fetched.
    """
    made_of = zlib.crc32(Path(made_by).read_bytes())
    target = parts.folder(os.environ) / f"{name}-{suite}-{made_of:08x}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=target.parent) as temporary:
        stage, work = Path(temporary) / "stage", Path(temporary) / "work"
        stage.mkdir(mode=0o755)
        work.mkdir()
        try:
            debian.fetch_system(packages, suite, stage, work)
        except Unavailable as error:
            raise PartMissing(f"{name} of {suite}: cannot be provided: {error}") from error
        furnish(stage)
        try:
            stage.rename(target)
        except OSError:
            if not target.is_dir():  # another process provided it
                raise
    return target


def program(root: Path, name: str) -> list[str]:
    """The beginning of a command line that runs a program of systemd from outside its root.

    It needs no privileges, and does not use this machine's libraries, which may be older.
    """
    [loader, *_] = sorted(root.glob("usr/lib*/ld-linux-*.so.*"))
    [private] = {each.parent for each in root.glob("usr/lib/*/systemd/libsystemd-shared-*.so")}
    libraries = f"{private.parent}:{private}"
    return [str(loader), "--library-path", libraries, str(root / "usr/bin" / name)]
