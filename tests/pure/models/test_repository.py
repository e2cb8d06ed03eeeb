"""Reading a model repository: with files, without a Triton."""

import errno
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidecar.models import repository as module
from sidecar.models.manifest import files_digest
from sidecar.models.repository import Repository
from sidecar.runtime.errors import ConfigError, SidecarError, Unavailable

pytestmark = pytest.mark.files

CONFIG = "config.pbtxt"
ENSEMBLE = 'ensemble_scheduling { step [ { model_name: "chat" }, { model_name: "inner" } ] }'


def later() -> float:
    """A wall clock past the time in which a change may go unnoticed."""
    return time.time() + 3600


def write(path: Path, content: str | bytes = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    write(folder / "chat" / "config.pbtxt", 'backend: "python"')
    write(folder / "chat" / "1" / "model.py", "one")
    write(folder / "chat" / "2" / "model.py", "two")
    return folder


def named(folder: Path, versions: tuple[str, ...] | None = None) -> list[str]:
    (model,) = Repository(folder).read({"chat": versions})
    return [name for name, _ in model.files]


def found(folder: Path, versions: tuple[str, ...] | None = None) -> str:
    return files_digest(Repository(folder).read({"chat": versions}))


def test_the_loaded_versions_are_read_or_else_those_that_would_be_loaded(models: Path) -> None:
    assert named(models) == ["2/model.py", "config.pbtxt"]
    assert named(models, ("1",)) == ["1/model.py", "config.pbtxt"]
    assert found(models) == found(models, ("2",)) != found(models, ("1",))
    write(models / "chat" / "config.pbtxt", "version_policy { all {} }")
    assert named(models) == ["1/model.py", "2/model.py", "config.pbtxt"]
    (models / "chat" / "config.pbtxt").unlink()
    assert named(models) == ["2/model.py"]


def test_every_change_that_counts_is_noticed_and_no_other(models: Path) -> None:
    reader, seen = Repository(models), set()

    def current() -> str:
        return files_digest(reader.read({"chat": None}))

    changes: list[Callable[[], object]] = [
        lambda: None,
        lambda: write(models / "chat" / "2" / "model.py", "tvo"),
        lambda: write(models / "chat" / "labels.txt", ""),
        lambda: write(models / "chat" / "config.pbtxt", 'backend: "python" max_batch_size: 2'),
        lambda: (models / "chat" / "2" / "model.py").rename(models / "chat" / "2" / "model"),
        lambda: write(models / "chat" / "3" / "model.py", "two"),
    ]
    for change in changes:
        change()
        seen.add(current())
    assert len(seen) == len(changes)
    write(models / "chat" / "canary.toml")
    write(models / "chat" / "1" / "model.py", "another")
    write(models / "chat" / "3" / "__pycache__" / "model.pyc")
    os.utime(models / "chat" / "3" / "model.py", (1, 1))
    assert current() in seen


SAME = (
    'backend: "python"',
    '# A comment.\nbackend:   "python"',
    'backend: "python" instance_group [{ count: 4 }]',
    'backend: "python" instance_group [{ kind: KIND_AUTO }, { name: "b" count: 2 gpus: [0, 1] }]',
    'backend: "python" instance_group [{ rate_limiter { priority: 2 } host_policy: "numa_1" }]',
)
OTHERS = (
    'backend: "onnxruntime"',
    'backend: "python" instance_group [{ kind: KIND_CPU }]',
    'backend: "python" instance_group [{ kind: KIND_GPU }, { kind: KIND_CPU }]',
    'backend: "python" instance_group [{ kind: KIND_GPU passive: true }]',
    'backend: "python" parameters { key: "a" value { string_value: "b" } }',
    'backend: "python" dynamic_batching { preferred_batch_size: 4 }',
    'backend: "python" newer_than_we_are: 1',
    'backend: "python" newer_than_we_are: 2',
)


def test_settings_for_the_host_do_not_change_the_digest(models: Path) -> None:
    def digest_of(text: str) -> str:
        write(models / "chat" / CONFIG, text)
        return found(models)

    assert len({digest_of(text) for text in SAME}) == 1
    assert len({digest_of(text) for text in (SAME[0], *OTHERS)}) == len(OTHERS) + 1


def test_the_models_that_a_model_calls_belong_to_its_set(models: Path) -> None:
    write(models / "tokens" / "1" / "model.py")
    write(models / "inner" / "4" / "model.onnx")
    depends_on = {"chat": ("tokens",), "tokens": ("inner", "chat")}

    def read() -> list[str]:
        reader = Repository(models, depends_on=depends_on)
        return [
            files_digest(reader.read({"chat": None})),
            files_digest(reader.read({"inner": None})),
        ]

    before = read()
    write(models / "inner" / "4" / "model.onnx", "another")
    assert all(one != other for one, other in zip(before, read(), strict=True))
    before = read()
    write(models / "tokens" / "1" / "model.py", "another")
    after = read()
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_a_change_that_keeps_size_and_time_is_noticed(models: Path) -> None:
    path = models / "chat" / "2" / "model.py"
    reader = Repository(models)
    before, status = reader.read({"chat": None}), path.stat()
    write(path, "tvo")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert reader.read({"chat": None}) != before


def test_an_unchanged_file_is_not_read_again(models: Path) -> None:
    reader = Repository(models, later)
    before = reader.read({"chat": None})
    read = reader.bytes_read
    assert read
    assert reader.read({"chat": None}) == before
    assert reader.bytes_read == read
    write(models / "chat" / "2" / "more", "12345")
    reader.read({"chat": None})
    assert reader.bytes_read == read + 5


def test_a_just_changed_file_is_read_again(models: Path) -> None:
    """Within one tick of the file system's clock it might have changed again unnoticed."""
    reader = Repository(models)
    reader.read({"chat": None})
    read = reader.bytes_read
    reader.read({"chat": None})
    assert reader.bytes_read > read


def test_a_missing_file_is_forgotten(models: Path) -> None:
    reader = Repository(models, later)
    reader.read({"chat": ("1", "2")})
    reader.read({"chat": ("1",)})
    read = reader.bytes_read
    reader.read({"chat": ("1", "2")})
    assert reader.bytes_read == read + len("two")


def test_an_ensemble_includes_its_models(models: Path) -> None:
    write(models / "both" / "config.pbtxt", ENSEMBLE)
    (models / "both" / "1").mkdir()
    write(models / "inner" / "4" / "model.onnx")
    read = Repository(models).read({"both": ("1",), "chat": ("1",)})
    assert [(model.name, model.versions) for model in read] == [
        ("both", ("1",)),
        ("chat", ("1",)),
        ("inner", ("4",)),
    ]


def test_links_are_followed_but_not_in_cycles(models: Path, tmp_path: Path) -> None:
    plain = found(models)
    (models / "chat" / "2").rename(tmp_path / "elsewhere")
    (models / "chat" / "2").symlink_to(tmp_path / "elsewhere")
    (models / "chat" / "config.pbtxt").rename(tmp_path / "config")
    (models / "chat" / "config.pbtxt").symlink_to(tmp_path / "config")
    assert found(models) == plain
    (tmp_path / "elsewhere" / "self").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(models / "chat")
    assert found(models) == plain


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda chat: chat.rename(chat.parent / "other"),
            "triton.repository: expected the folder of the model 'chat'",
        ),
        (
            lambda chat: [(chat / name).rename(chat / f"v{name}") for name in ("1", "2")],
            "triton.repository: .*chat: expected a version that the version_policy",
        ),
        (
            lambda chat: write(chat / CONFIG, "version_policy { specific { versions: [7] } }"),
            "expected a version that the version_policy",
        ),
        (lambda chat: write(chat / CONFIG, "{{"), f"{CONFIG}: expected a model's config: 1:"),
        (lambda chat: write(chat / CONFIG, b"\xff"), f"{CONFIG}: expected a model's config: "),
        (lambda chat: write(chat / CONFIG, bytes(2**20 + 1)), f"{CONFIG}: expected at most"),
        (
            lambda chat: write(chat / CONFIG, ENSEMBLE),
            "triton.repository: expected the folder of the model 'inner'",
        ),
        (
            lambda chat: (chat / "2" / "weights").symlink_to("nowhere"),
            "2/weights: expected a link to something that is there",
        ),
        (
            lambda chat: (chat / "2" / "weights").symlink_to("weights"),
            "2/weights: .*; expected a file or folder that can be read",
        ),
        (
            lambda chat: os.mkfifo(chat / "2" / "weights"),
            "2/weights: expected a file or a folder in the model repository",
        ),
    ],
)
def test_faults_that_an_operator_can_fix(
    models: Path, change: Callable[[Path], object], words: str
) -> None:
    change(models / "chat")
    with pytest.raises(ConfigError, match=words):
        Repository(models).read({"chat": None})


def test_a_loaded_version_has_to_exist(models: Path) -> None:
    with pytest.raises(ConfigError, match="expected the folder of version 3"):
        Repository(models).read({"chat": ("2", "3")})


@contextmanager
def before_open(monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], None]) -> Iterator[None]:
    """Call `act` with each path before the file is opened."""
    original = module._opened

    def opened(path: Path) -> object:
        act(path)
        return original(path)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_opened", opened)
        yield


def into_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda path: path.unlink(), "vanished"),
        (lambda path: path.write_text("longer than before"), "changed while it was read"),
        (lambda path: (path.parent / "new").touch(), "changed while it was read"),
        (lambda path: (path.parent.parent / "new").touch(), "changed while it was read"),
        (into_a_pipe, "changed while it was read"),
    ],
)
def test_a_change_during_a_read_makes_no_digest(
    models: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], None], words: str
) -> None:
    (models / "chat" / "config.pbtxt").unlink()
    reader = Repository(models)
    with before_open(monkeypatch, act), pytest.raises(Unavailable, match=words):
        reader.read({"chat": ("2",)})


@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.EACCES, ConfigError), (errno.EIO, Unavailable), (errno.ESTALE, Unavailable)],
)
def test_errors_of_the_operating_system(
    models: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[SidecarError]
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(number, os.strerror(number))

    with before_open(monkeypatch, refuse), pytest.raises(error, match=os.strerror(number)):
        Repository(models).read({"chat": None})


def test_a_large_file_takes_little_memory(models: Path) -> None:
    with (models / "chat" / "2" / "weights").open("wb") as file:
        file.truncate(200 * 2**20)
    reader = Repository(models)
    tracemalloc.start()
    try:
        reader.read({"chat": None})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reader.bytes_read > 200 * 2**20
    assert peak < 2 * 2**20
