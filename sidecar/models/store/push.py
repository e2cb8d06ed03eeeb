"""Stores a model's folder as a snapshot: blobs first, the manifest next, its name last.

Acts: through its backend and `scan`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sidecar.models.store import contents, naming, several
from sidecar.models.store.contents import Stored
from sidecar.models.store.documents import layout, snapshot
from sidecar.models.store.documents.names import Reference, of_digest
from sidecar.models.store.documents.snapshot import Snapshot, StoredFile
from sidecar.models.store.model_folder import recognition, scan
from sidecar.models.store.model_folder.scan import FoundFile, FoundModel
from sidecar.models.store.places import hashing
from sidecar.models.store.places.backend import Backend
from sidecar.models.store.progress import Progress
from sidecar.runtime.amounts import in_bytes
from sidecar.runtime.errors import ConfigError, Conflict, Corrupt, NoRoom, Unavailable

_TRIES = 3  # at blobs that vanish while they are pushed
_SPARE = 2**20  # bytes for folders and the manifest


@dataclass(frozen=True, slots=True)
class PushRequest:
    """What is pushed, and under which name; `created` is in RFC 3339.

    `move`: a name that another snapshot has moves to this one. `verify`: blobs that are there are
    read, and replaced if they are corrupt. `canaries`: a folder with the model's canaries, by
    default its own.
    """

    folder: Path
    name: Reference
    created: str
    by: str
    source: str = ""
    move: bool = False
    verify: bool = False
    canaries: Path | None = None


@dataclass(frozen=True, slots=True)
class Pushed:
    """The snapshot, with the bytes that were stored, and those that were there before.

    `known`: the name had a snapshot with this content already, which is the one given.
    """

    stored: Stored
    new: int
    present: int
    known: bool = False


def push(backend: Backend, request: PushRequest, progress: Progress) -> Pushed:
    """Push a model.

    Raises:
        ConfigError: something in the folder, or about the store, has to be changed.
        Conflict: the name has another snapshot, and is not to be moved; or a file has changed
            while it was read.
        NoRoom: there is too little room in the store.
        Unavailable: the store does not answer.
    """
    found = scan.model(request.folder, request.canaries)
    if not recognition.is_model(request.folder) and (
        models := recognition.models_in(request.folder)
    ):
        raise ConfigError(
            f"{request.folder}: expected the folder of one model, found one of models, such as "
            f"{models[0]!r}; push each"
        )
    _require_manifest(request, found)
    backend.prepare()
    backend.tidy()
    try:
        return _Push(backend, request, progress, found).run()
    finally:
        backend.release()


def _require_manifest(request: PushRequest, found: FoundModel) -> None:
    """Raise ConfigError if the manifest would be too large to be read; digests have one length."""
    files = tuple(
        StoredFile(file.name, file.size, "0" * 64, file.executable) for file in found.all_files
    )
    made = Snapshot(
        request.name.model, request.created, request.by, request.source, files, found.folders
    )
    if (size := len(snapshot.dump(made))) > snapshot.LARGEST:
        raise ConfigError(
            f"{request.folder}: expected a manifest of at most {in_bytes(snapshot.LARGEST)}, found "
            f"{in_bytes(size)} for {len(files)} files"
        )


class _Push:
    """One push; `_digests` has those of the files read so far."""

    def __init__(
        self, backend: Backend, request: PushRequest, progress: Progress, found: FoundModel
    ) -> None:
        self._backend = backend
        self._request = request
        self._progress = progress
        self._found = found
        self._digests: dict[FoundFile, str] = {}
        self._new: dict[str, int] = {}

    def run(self) -> Pushed:
        current = self._current()
        fixed = current is not None and not self._request.move
        self._read(store=self._backend.hashes_while_writing and not fixed)
        made = self._snapshot()
        if current is not None and made.same_content(current.snapshot):
            self._complete(current.digest)
            return self._pushed(current, known=True)
        if current is not None and fixed:
            raise Conflict(
                f"{self._request.name} is {of_digest(current.digest)}, whose files differ; "
                "choose another tag, or --move this one"
            )
        return self._finish(made)

    def _read(self, store: bool) -> None:
        """Read all files; with `store`, store those that are certainly new at once."""
        sizes = {item.size for item in self._backend.items(layout.BLOBS)}
        files = self._found.all_files
        self._require(file.allocated for file in files if file.size not in sizes)

        def read(file: FoundFile) -> None:
            if store and file.size not in sizes:
                sizes.add(file.size)
                self._store(file, None)
            else:
                self._hash(file)

        self._progress.begin("storing" if store else "reading", sum(map(_size, files)))
        several.each(read, files, _size)

    def _current(self) -> Stored | None:
        """The snapshot that has the name."""
        name = self._request.name
        if not name.tag:
            return None
        tag = contents.tag_of(self._backend, name.model, name.tag)
        return None if tag is None else contents.read(self._backend, tag.digest)

    def _require(self, sizes: Iterable[int]) -> None:
        room = self._backend.room()
        needed = sum(sizes)
        if room is not None and needed and needed + _SPARE > room.free:
            raise NoRoom(
                f"{self._backend.place}: {in_bytes(needed)} are to be stored, and "
                f"{in_bytes(room.free)} of {in_bytes(room.total)} are free; "
                "`triton-sidecar model gc` removes what no name needs"
            )

    def _hash(self, file: FoundFile) -> None:
        chunks = self._progress.through(scan.read(file))
        _, self._digests[file] = hashing.digest_of(chunks)

    def _store(self, file: FoundFile, key: str | None) -> None:
        """Store a file's content.

        Raises:
            Conflict: it has changed since it was read.
        """
        chunks = scan.read(file)
        try:
            digest = self._backend.write(key, file.size, self._progress.through(chunks))
        except Corrupt:
            raise Conflict(f"{file.path} has changed while it was read; push again") from None
        self._digests[file] = digest
        self._new[digest] = file.size

    def _complete(self, manifest: str) -> None:
        """Store what is missing, until everything is there and claimed, also the manifest to come.

        Raises:
            Unavailable: something is removed again and again.
        """
        by_key = {layout.blob(digest): file for file, digest in self._digests.items()}
        checked = not self._request.verify
        for _ in range(_TRIES):
            present = self._backend.claim({layout.manifest(manifest), *by_key})
            missing = _missing(by_key, present)
            if not checked:
                missing |= self._corrupt(by_key.keys() - missing)
                checked = True
            if not missing:
                return
            self._require(by_key[key].allocated for key in missing)
            self._progress.begin("storing", sum(by_key[key].size for key in missing))
            several.each(
                lambda key: self._store(by_key[key], key),
                sorted(missing),
                lambda key: by_key[key].size,
            )
        raise Unavailable(f"{self._backend.place}: blobs vanish while they are pushed; push again")

    def _corrupt(self, keys: Iterable[str]) -> set[str]:
        """Those of the stored blobs that are not what their digest says."""
        return {
            key
            for key in keys
            if hashing.digest_of(self._backend.chunks(key))[1] != layout.digest_at(key)
        }

    def _snapshot(self) -> Snapshot:
        request = self._request
        return Snapshot(
            request.name.model,
            request.created,
            request.by,
            request.source,
            self._stored_files(self._found.files),
            self._found.folders,
            self._stored_files(self._found.canaries),
        )

    def _stored_files(self, files: Iterable[FoundFile]) -> tuple[StoredFile, ...]:
        found = (
            StoredFile(file.name, file.size, self._digests[file], file.executable) for file in files
        )
        return tuple(sorted(found, key=lambda file: file.path))

    def _finish(self, made: Snapshot) -> Pushed:
        """Store what is missing, the manifest, and its name, in this order."""
        manifest = snapshot.dump(made)
        stored = Stored(snapshot.digest(manifest), made)
        self._complete(stored.digest)
        self._backend.put(layout.manifest(stored.digest), manifest)
        if self._request.name.tag:
            request = naming.NamingRequest(
                self._request.name, self._request.created, self._request.by, self._request.move
            )
            naming.name(self._backend, stored.digest, request)
        return self._pushed(stored, known=False)

    def _pushed(self, stored: Stored, known: bool) -> Pushed:
        new = sum(self._new.values())
        return Pushed(stored, new, sum(stored.snapshot.blobs.values()) - new, known)


def _size(file: FoundFile) -> int:
    return file.size


def _missing(wanted: Mapping[str, FoundFile], present: Mapping[str, int]) -> set[str]:
    """The keys that are not there, or with another size: a blob that a crash has cut off."""
    return {key for key, file in wanted.items() if present.get(key) != file.size}
