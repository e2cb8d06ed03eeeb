"""Create the environment `.venv` from the locks: `python3 -m requirements.install` in the checkout.

Works on a Python without pip or ensurepip, as Debian's is; see sidecar/local/programs/wheels.py.
Only the standard library.
"""

import importlib.util
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from sidecar.local.programs import wheels
from sidecar.runtime.errors import SidecarError

_ROOT = Path(__file__).resolve().parents[1]
_ENVIRONMENT = _ROOT / ".venv"
_LOCKS = _ROOT / "requirements"


def main() -> int:
    """Install the locked requirements and this project; 1 with one message if that cannot be."""
    try:
        with tempfile.TemporaryDirectory(prefix="setup-") as work:
            _install(Path(work))
    except (SidecarError, OSError) as error:
        print(f"setup: the environment cannot be made: {error}", file=sys.stderr)
        return 1
    return 0


def _install(work: Path) -> None:
    venv.create(_ENVIRONMENT, clear=True, symlinks=True, with_pip=False)
    python = str(_ENVIRONMENT / "bin" / "python")
    _install_lock(_bootstrap_pip(python, work), "build.lock", work)
    pip = [python, "-m", "pip"]
    # Without isolation a package that has no wheel is built with the setuptools just verified.
    _install_lock([*pip], "dev.lock", work, "--no-build-isolation")
    project = ["--no-deps", "--no-build-isolation", "--editable", str(_ROOT)]
    wheels.run_pip([*pip, "install", *project], work)


def _bootstrap_pip(python: str, work: Path) -> list[str]:
    """Some pip for the new environment; the lock then brings the one we want."""
    if importlib.util.find_spec("ensurepip") is not None:
        ensured = subprocess.run(
            [python, "-m", "ensurepip"], cwd=work, capture_output=True, check=False
        )
        if ensured.returncode == 0:
            return [python, "-m", "pip"]
    return wheels.pip_command(work / "pip", python)


def _install_lock(pip: list[str], lock: str, work: Path, *options: str) -> None:
    requirements = ["--require-hashes", "--requirement", str(_LOCKS / lock)]
    wheels.run_pip([*pip, "install", *options, *requirements], work)


if __name__ == "__main__":
    sys.exit(main())
