"""A root file system with Debian's headless Chromium, for the tests that look at a page.

Run as a module, a part of `make setup`, it provides it if it is missing.
"""

import shutil
import sys
from pathlib import Path

from sidecar.runtime.errors import PartMissing
from tests.support import debian_root

SUITE = "bookworm"
PROGRAM = Path("/usr/lib/chromium/chromium-headless-shell")
# Where the folder that a page is in gets mounted.
SITE = Path("/site")
# The widest of the usual fonts, so that what fits here fits elsewhere.
_PACKAGES = ("chromium-headless-shell", "fonts-dejavu-core")
# Half of the download's size: drivers of graphics cards, documentation, and other languages.
_UNUSED = (
    *("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian"),
    *("usr/lib/*/libLLVM*", "usr/lib/*/libz3*", "usr/lib/*/dri", "usr/lib/*/gconv"),
    *("usr/lib/chromium/libVk*", "usr/lib/chromium/locales/[!e]*"),
)


def provide() -> Path:
    """The folder of the root file system, fetched when it is not here yet.

    Raises:
        PartMissing: it cannot be fetched.
    """
    return debian_root.provide("chromium", _PACKAGES, SUITE, _furnish, __file__)


def _furnish(root: Path) -> None:
    for pattern in _UNUSED:
        for found in root.glob(pattern):
            if found.is_dir() and not found.is_symlink():
                shutil.rmtree(found)
            else:
                found.unlink()
    for folder in ("dev", "proc", "tmp", SITE.relative_to("/")):
        (root / folder).mkdir(exist_ok=True)


def main() -> None:
    """Provide it. Without it only the tests that need it fail, and say so."""
    try:
        print(f"chromium: {provide()}")
    except PartMissing as error:
        print(f"{error}\n  The tests that look at a page will fail.", file=sys.stderr)


if __name__ == "__main__":
    main()
