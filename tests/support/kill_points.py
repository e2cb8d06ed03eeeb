"""Kills a verb on a store before each of its operations on files, and looks what is left.

A program: `python -m tests.support.kill_points VERB FOLDER EVERY`. It forks, which a process with
threads should not. For every EVERY-th operation it starts from the same store, kills, checks, runs
the verb again, and checks; it prints how many operations the verb has, or fails.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sidecar.models.store import contents, transfer
from sidecar.models.store.contents import Stored
from sidecar.models.store.documents import layout
from sidecar.models.store.places import location
from sidecar.models.store.places.backend import Backend
from sidecar.models.store.progress import Progress
from sidecar.models.store.pull import is_exactly, pull
from sidecar.runtime.errors import Corrupt, NotFound
from tests.support import model_stores
from tests.support.model_stores import FILES

_EVENTS = (
    *("open", "os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "os.utime"),
    *("os.truncate", "os.chmod", "fcntl.flock", "fcntl.ioctl", "shutil.rmtree"),
)
OTHER = {**FILES, "1/model.py": b"other", "1/more.bin": b"more", "labels.txt": b"labels"}


@dataclass(frozen=True, slots=True)
class Stage:
    """A folder with two models, a store, another store, and a target."""

    folder: Path

    @property
    def store(self) -> Backend:
        return location.backend(str(self.folder / "store"))

    @property
    def other(self) -> Backend:
        return location.backend(str(self.folder / "other"))

    @property
    def target(self) -> Path:
        return self.folder / "pulled"

    def prepare(self) -> None:
        for name, files in (("v1", FILES), ("v2", OTHER)):
            model_stores.push(self.store, model_stores.model(self.folder / name, files), move=True)
        pull(self.other_of_first(), model_stores.resolve(self.other), self.target, Progress())

    def other_of_first(self) -> Backend:
        model_stores.push(self.other, self.folder / "v1")
        return self.other


def push(stage: Stage) -> None:
    model_stores.push(stage.other, stage.folder / "v2", move=True)


def push_first(stage: Stage) -> None:
    (stage.folder / "new").mkdir(exist_ok=True)
    model_stores.push(location.backend(str(stage.folder / "new")), stage.folder / "v2")


def pull_new(stage: Stage) -> None:
    pull(stage.store, model_stores.resolve(stage.store), stage.folder / "new-target", Progress())


def pull_copies(stage: Stage) -> None:
    stored = model_stores.resolve(stage.store)
    pull(stage.store, stored, stage.target, Progress(), copy=True, replace=True)


def replace(stage: Stage) -> None:
    pull(stage.store, model_stores.resolve(stage.store), stage.target, Progress(), replace=True)


def collect(stage: Stage) -> None:
    model_stores.collect(stage.store)


def copy(stage: Stage) -> None:
    chosen = transfer.chosen(stage.store, [])
    transfer.copy(stage.store, stage.other, chosen, Progress(), move=True)


VERBS: dict[str, Callable[[Stage], None]] = {
    verb.__name__: verb
    for verb in (push, push_first, pull_new, pull_copies, replace, collect, copy)
}


def check(stage: Stage, done: bool) -> None:
    """What holds at every moment; and what holds once a verb has ended."""
    for name in ("store", "other", "new"):
        if not (stage.folder / name / layout.MANIFESTS).is_dir():
            continue
        store = location.backend(str(stage.folder / name))
        assert model_stores.verify(store).damages == (), name
        left = [
            path.name
            for path in (stage.folder / name / layout.PARTIAL).iterdir()
            if path.name != "claims"
        ]
        assert not done or all(".swept" in path for path in left), left
    versions = [model_stores.resolve(stage.store), _v1(stage)]
    for target in (stage.target, stage.folder / "new-target"):
        if target.exists():
            assert any(is_exactly(target, each, Progress()) for each in versions if each), target
    hidden = [path.name for path in stage.folder.iterdir() if path.name.startswith(".")]
    assert not done or not hidden, hidden


def _v1(stage: Stage) -> Stored | None:
    """The older snapshot."""
    tag = contents.tag_of(stage.other, "chat", "v1")
    for digest in (*tag.last(9),) if tag else ():
        try:
            found = contents.read(stage.other, digest)
        except (NotFound, Corrupt):
            continue
        if len(found.snapshot.files) == len(FILES):
            return found
    return None


def forked(work: Callable[[], None]) -> int:
    """The status of a child that does this: its signal as a negative number."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:  # noqa: BLE001  # the child ends here
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed(verb: Callable[[Stage], None], stage: Stage, at: int) -> None:
    """Run a verb, and die before its operation of this number."""
    left = at

    def hook(event: str, _: object) -> None:
        nonlocal left
        if event in _EVENTS:
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    verb(stage)


def main(name: str, folder: Path, every: int) -> int:
    """Kill at each point; see the module."""
    verb, before = VERBS[name], folder / "before"
    before.mkdir()
    assert forked(Stage(before).prepare) == 0
    assert forked(lambda: verb(Stage(before))) in (0, 1)  # its modules are imported
    shutil.rmtree(before)
    before.mkdir()
    assert forked(Stage(before).prepare) == 0
    at = 0
    while True:
        stage = Stage(folder / f"at-{at}")
        shutil.copytree(before, stage.folder, symlinks=True)
        status = forked(lambda stage=stage, at=at: killed(verb, stage, at))  # type: ignore[misc]
        if status not in (0, -signal.SIGKILL):
            return _fail(at, "the verb failed", status)
        if (found := forked(lambda stage=stage: check(stage, False))) != 0:  # type: ignore[misc]
            return _fail(at, "after the kill", found)
        if (found := forked(lambda stage=stage: verb(stage))) != 0:  # type: ignore[misc]
            return _fail(at, "again", found)
        if (found := forked(lambda stage=stage: check(stage, True))) != 0:  # type: ignore[misc]
            return _fail(at, "after the same verb again", found)
        shutil.rmtree(stage.folder)
        if status == 0:
            print(at)
            return 0
        at += every


def _fail(at: int, when: str, status: int) -> int:
    print(f"killed before operation {at}: {when}: {status}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
