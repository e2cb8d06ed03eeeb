"""A canary is recorded as a whole or not at all, even on a full disk."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from sidecar.cli.canary.files import drafted
from sidecar.runtime.errors import NoRoom

pytestmark = pytest.mark.files


@pytest.mark.parametrize("room", [0, 1, 2])
def test_a_full_disk_keeps_the_previous_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    path, array = tmp_path / "m.toml", tmp_path / "m.x.npy"
    path.write_text("before")
    np.save(array, np.zeros(3))
    write, written = Path.write_text, list[Path]()

    def limited(self: Path, text: str, encoding: str) -> int:
        if len(written) == room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(self)
        return write(self, text, encoding)

    def record() -> None:
        with drafted(path, "m", {}, {array.name: np.ones(3)}, ""):
            pass

    monkeypatch.setattr(Path, "write_text", limited)
    if room < 2:
        with pytest.raises(NoRoom, match=r"m\.toml: cannot be written: No space left"):
            record()
        assert path.read_text() == "before"
        assert np.load(array).sum() == 0
    else:
        record()
        assert "[canary.m]" in path.read_text()
        assert np.load(array).sum() == 3
    assert sorted(tmp_path.iterdir()) == [path, array]


def test_an_array_that_does_not_fit_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: object, **__: object) -> None:
        raise OSError("3 requested and 1 written")  # as NumPy says it

    monkeypatch.setattr(np, "save", short)
    with (
        pytest.raises(NoRoom, match="cannot be written: 3 requested and 1 written"),
        drafted(tmp_path / "m.toml", "m", {}, {"m.x.npy": np.ones(3)}, ""),
    ):
        pass
