"""Large files need little memory, wherever the store is."""

import subprocess
import sys
from pathlib import Path

import pytest

_SIZE = 200 * 2**20  # bytes
_MOST = 64_000_000  # bytes
_PROGRAM = """
import re, sys
from pathlib import Path
from sidecar.models.store.places import location
from sidecar.models.store.progress import Progress
from sidecar.models.store.pull import pull
from tests.support import model_stores

def peak():  # that of getrusage begins with the memory of the parent
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

place, model, target = sys.argv[1:]
idle = peak()
store = location.backend(place)
model_stores.push(store, Path(model))
pull(store, model_stores.resolve(store), Path(target), Progress(), copy=True)
assert model_stores.verify(store).damages == ()
print(peak() - idle)
"""


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    bucket = request.param == "bucket"
    return str(request.getfixturevalue("s3")) if bucket else str(tmp_path / "store")


def test_the_memory_of_a_push_a_pull_and_a_verification(place: str, tmp_path: Path) -> None:
    (model := tmp_path / "model").mkdir()
    with (model / "weights.bin").open("wb") as file:  # sparse, and not the same everywhere
        for number in range(0, _SIZE, 2**20):
            file.seek(number)
            file.write(number.to_bytes(8, "big"))
        file.truncate(_SIZE)
    command = [sys.executable, "-c", _PROGRAM, place, str(model), str(tmp_path / "pulled")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < _MOST
