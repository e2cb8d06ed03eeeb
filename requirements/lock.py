"""Write the lock files: `make lock`. Hashes for every platform, and no registry's address."""

import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_OPTIONS = [
    *("--quiet", "--universal", "--python-version", "3.11", "--generate-hashes"),
    *("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"),
]
# dev.lock first: the others take their versions from it.
_LOCKS = {
    "dev": ["pyproject.toml", "--extra", "drill", "--extra", "s3", "--group", "dev"],
    "runtime": ["pyproject.toml", "-c", "requirements/dev.lock"],
    "drill": ["pyproject.toml", "--extra", "drill", "-c", "requirements/dev.lock"],
    "s3": ["pyproject.toml", "--extra", "s3", "-c", "requirements/dev.lock"],
    "build": ["requirements/build.in", "-c", "requirements/dev.lock"],
    "parts": ["requirements/parts.in", "--no-deps"],
}


def main(arguments: list[str]) -> int:
    """Lock everything; further arguments, such as `--upgrade`, go to uv."""
    for name, sources in _LOCKS.items():
        output = f"requirements/{name}.lock"
        command = [sys.executable, "-m", "uv", "pip", "compile", *_OPTIONS, *sources]
        done = subprocess.run([*command, "-o", output, *arguments], cwd=_ROOT, check=False)
        if done.returncode != 0:
            return done.returncode
        if "://" in (_ROOT / output).read_text():
            print(f"{output}: holds an address; locks must work with any registry")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
