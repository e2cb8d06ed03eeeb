"""Models to push, and short forms of what tests of stores do."""

from collections.abc import Mapping
from pathlib import Path

from sidecar.models.store import collection, contents, verification
from sidecar.models.store.collection import Collected, Watermarks
from sidecar.models.store.contents import Stored
from sidecar.models.store.documents import names
from sidecar.models.store.places import location
from sidecar.models.store.places.backend import Backend
from sidecar.models.store.progress import Progress
from sidecar.models.store.push import Pushed, PushRequest
from sidecar.models.store.push import push as push_
from sidecar.models.store.retention import RetentionRules
from sidecar.models.store.verification import Verified

FILES: Mapping[str, bytes] = {
    "config.pbtxt": b'backend: "python"',
    "1/model.py": b"one",
    "1/weights.bin": bytes(range(256)) * 5000,
    "2/model.py": b"two",
    "labels.txt": b"one",
}
CREATED = "2026-01-02T03:04:05.678Z"


def opened(place: str) -> Backend:
    """A store at a place, which is made if there is none."""
    store = location.backend(place)
    store.prepare()
    return store


def model(folder: Path, files: Mapping[str, bytes] = FILES) -> Path:
    """A model's folder with these files."""
    for name, content in files.items():
        (path := folder / name).parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def push(
    backend: Backend,
    folder: Path,
    name: str = "chat:v1",
    *,
    move: bool = False,
    verify: bool = False,
) -> Pushed:
    """Push a model, without progress."""
    request = PushRequest(
        folder, names.reference(name), CREATED, "somebody", "commit", move, verify
    )
    return push_(backend, request, Progress())


def damage(backend: Backend, key: str, content: bytes) -> None:
    """Replace what is stored, unchecked, as bit rot does."""
    backend.remove(key)
    backend.create(key, content)


def resolve(backend: Backend, name: str = "chat:v1") -> Stored:
    """The snapshot of a name."""
    return contents.resolve(backend, names.reference(name))


def verify(backend: Backend, *wanted: str) -> Verified:
    """Verify what is named, or everything."""
    return verification.verify(backend, list(map(names.reference, wanted)), Progress())


def collect(
    backend: Backend,
    rules: RetentionRules | None = None,
    *,
    size: int | None = None,
    dry_run: bool = False,
) -> Collected:
    """Collect, by default all that no name has now, whatever its age."""
    chosen = rules or RetentionRules(last=1, grace=0.0)
    return collection.collect(backend, chosen, Watermarks(size=size), dry_run=dry_run)
