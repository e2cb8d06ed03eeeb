"""What `--check-config` reports about paths of the wrong kind, and that it modifies nothing."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sidecar.cli.main import app
from sidecar.models import loaded_set
from sidecar.models.loaded_set import LoadedSet
from sidecar.runtime.errors import ConfigError
from sidecar.settings import load_operator, load_xds, paths
from sidecar.xds.catalog import cached_state
from sidecar.xds.catalog.cached_state import CachedState

pytestmark = pytest.mark.files

OWN = """
[service]
id = "a"
[triton]
models = ["chat"]
"""
CANARY = """
[canary.chat]
inputs = [{ name = "text", datatype = "BYTES", shape = [1], data = ["Hello"] }]
expect = [{ output = "answer", equals = ["Hi"] }]
"""


def mistakes_in(verb: str, folder: Path, text: str) -> list[str]:
    """The mistakes that `--check-config` finds; the folder's contents stay unchanged."""
    config = folder / "settings.toml"
    config.write_text(text)
    before = looked_at(folder)
    result = CliRunner().invoke(app, [verb, "--config", str(config), "--check-config"])
    assert looked_at(folder) == before
    lines = [line.removeprefix("triton-sidecar: ") for line in result.stderr.splitlines()]
    assert result.exit_code == (2 if lines else 0)
    return lines


def looked_at(folder: Path) -> list[tuple[str, int, int, int]]:
    """Everything in a folder, with what a modification would change."""
    found = [(path, path.lstat()) for path in sorted(folder.rglob("*"))]
    return [(str(path), seen.st_ino, seen.st_size, seen.st_mtime_ns) for path, seen in found]


def state(folder: Path, path: Path | str) -> list[str]:
    return mistakes_in("xds", folder, f"[xds]\nstate = '{path}'\n")


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("kept", "expected a file, found a folder, '{0}/kept'"),
        ("..", "expected a file, found a folder, '{0}/..'"),
        ("none/state", "expected a file in a folder that exists, found no folder '{0}/none'"),
        ("other.toml/state", "expected a file, found '{0}/other.toml/state': Not a directory"),
        ("pipe", "expected a file, found something else, '{0}/pipe'"),
        ("loop", "expected a file, found '{0}/loop': Too many levels of symbolic links"),
        ("n" * 300, "expected a file, found "),
        # It would be moved aside, and replaced.
        ("other.toml", "expected a control plane's cached catalog, found another file, "),
        ("settings.toml", "expected a control plane's cached catalog, found another file, "),
    ],
)
def test_an_unusable_state_file_is_refused(tmp_path: Path, name: str, fault: str) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "other.toml").write_text("[xds]\n")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    [line] = state(tmp_path, name)
    key = f"{tmp_path / 'settings.toml'}: xds.state: "
    assert line.startswith(key + fault.format(tmp_path))


def test_a_state_with_a_nul_in_its_name_is_refused(tmp_path: Path) -> None:
    [line] = mistakes_in("xds", tmp_path, '[xds]\nstate = "a\\u0000b"\n')
    assert "xds.state: expected a file" in line


@pytest.mark.parametrize(
    ("denied", "fault"),
    [
        ("folder", "expected a file in a folder that may be written, found "),
        ("file", "expected a file that can be read, found "),
    ],
)
def test_a_state_file_without_permissions_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, denied: str, fault: str
) -> None:
    kept = tmp_path / "state.json"
    kept.touch()
    config = tmp_path / "settings.toml"
    config.write_text("[xds]\nstate = 'state.json'\n")
    closed = tmp_path if denied == "folder" else kept
    # The tests may run as root, which may do everything.
    monkeypatch.setattr("os.access", lambda path, mode: path != closed)
    with pytest.raises(ConfigError, match=f"xds.state: {fault}'{closed}'$"):
        paths.check_xds(load_xds(config))


@pytest.mark.parametrize("folder", ["/proc", "/sys"])
def test_a_state_file_where_not_even_root_can_write_is_refused(tmp_path: Path, folder: str) -> None:
    [line] = state(tmp_path, f"{folder}/state.json")
    assert "xds.state: expected a file in a folder" in line
    assert f"found '{folder}'" in line


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_is_accepted_and_a_read_only_one_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    opened = os.open

    def full(path: Path, flags: int, *mode: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(number, os.strerror(number))
        return opened(path, flags, *mode)

    config = tmp_path / "settings.toml"
    config.write_text("[xds]\nstate = 'state.json'\n")
    settings = load_xds(config)
    monkeypatch.setattr(os, "open", full)
    if number == errno.EROFS:
        with pytest.raises(ConfigError, match=r"xds\.state: .*: Read-only file system"):
            paths.check_xds(settings)
    else:
        paths.check_xds(settings)


def test_a_file_system_without_unnamed_files_is_not_modified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open

    def old(path: Path, flags: int, *mode: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return opened(path, flags, *mode)

    monkeypatch.setattr(os, "open", old)
    assert state(tmp_path, "state.json") == []


@pytest.mark.parametrize(
    "prepare",
    [
        lambda path: None,
        lambda path: path.touch(),
        lambda path: path.write_bytes(cached_state.dump(CachedState(("triton",)), 0.0)),
        lambda path: path.write_text('{"format": 7}\n'),  # of a newer version
        lambda path: path.symlink_to("nowhere"),
    ],
    ids=["none", "empty", "kept", "newer", "dangling"],
)
def test_a_usable_state_file_is_accepted(tmp_path: Path, prepare: Callable[[Path], object]) -> None:
    prepare(tmp_path / "state.json")
    assert state(tmp_path, "state.json") == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("repository = 'none'", "triton.repository: expected a folder, found no '{0}/none'"),
        ("repository = 'file'", "triton.repository: expected a folder, found '{0}/file': Not a"),
        (
            "repository = 'folder'\nstate = 'folder'",
            "triton.state: expected a file, found",
        ),
        (
            "repository = 'folder'\nstate = 'none/state'",
            "triton.state: expected a file in a folder",
        ),
        (
            "repository = 'folder'\nstate = 'settings.toml'",
            "triton.state: expected a sidecar's saved state, found another file, '{0}/settings",
        ),
        (
            "repository = 'folder'\nstate = 'neighbour'",
            "triton.state: expected the saved state of instance 'a', found that of 'b', '{0}/nei",
        ),
        (
            "repository = 'folder'\nstate = 'plane'",
            "triton.state: expected a sidecar's saved state, found another file, '{0}/plane'",
        ),
        (
            "[recovery]\naction = {{ kind = 'command', command = ['{0}/file'] }}",
            "recovery.action.command: expected a program that can be run, found '{0}/file'",
        ),
        (
            "[recovery]\naction = {{ kind = 'signal', pid_file = '{0}/folder' }}",
            "recovery.action.pid_file: expected a file, found",
        ),
    ],
)
def test_unusable_paths_of_a_sidecar_are_refused(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "neighbour").write_bytes(loaded_set.dump(LoadedSet(), "b"))
    (tmp_path / "plane").write_bytes(cached_state.dump(CachedState(("triton",)), 0.0))
    [line] = mistakes_in("run", tmp_path, f"{OWN}\n{text.format(tmp_path)}\n{CANARY}")
    assert line.startswith(f"{tmp_path / 'settings.toml'}: {fault.format(tmp_path)}"[:200])


def test_a_state_file_needs_no_repository(tmp_path: Path) -> None:
    assert mistakes_in("run", tmp_path, f"{OWN}\nstate = 'state.json'\n{CANARY}") == []


@pytest.mark.parametrize("document", [None, b"", loaded_set.dump(LoadedSet(), "a")])
def test_an_existing_state_file_of_the_sidecar_is_accepted(
    tmp_path: Path, document: bytes | None
) -> None:
    (tmp_path / "models").mkdir()
    if document is not None:
        (tmp_path / "state.json").write_bytes(document)
    text = f"{OWN}\nrepository = 'models'\nstate = 'state.json'\n{CANARY}"
    assert mistakes_in("run", tmp_path, text) == []


def test_usable_paths_of_a_sidecar_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    text = f"""
[triton]
models = ["chat"]
repository = "models"
[recovery]
action = {{ kind = "signal", pid_file = "{tmp_path}/later.pid" }}
"""
    assert mistakes_in("run", tmp_path, text + CANARY) == []


def test_without_a_check_no_path_is_read(tmp_path: Path) -> None:
    config = tmp_path / "xds.toml"
    config.write_text("[xds]\nstate = '/none/state'\n")
    for load in (load_xds, load_operator):  # the paths may be those of another machine
        assert load(config).xds.state == Path("/none/state")
