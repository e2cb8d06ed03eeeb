"""Snapshots of models, and their manifests. Pure.

A manifest is canonical JSON: equal snapshots have equal bytes. Its SHA-256 is the snapshot's
digest. It may have been written by a later version, or by anyone: what it says is checked.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from sidecar.models.store.documents import fields, names
from sidecar.runtime.errors import Rejected

FORMAT = 1
LARGEST = 64 * 2**20  # bytes of a manifest; some 300,000 files
_LONGEST_PART = 255  # bytes of a name in a folder


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file: its path below the model's folder, its size in bytes, and the SHA-256 of it."""

    path: str
    size: int
    digest: str
    executable: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A model's files at one time, with who pushed them when.

    `created` is in RFC 3339. `source` is free text, such as a commit. `folders` are those without
    files: to Triton, an empty version folder is a version. `canaries` are files that the sidecar
    reads and Triton does not.
    """

    model: str
    created: str
    by: str
    source: str = ""
    files: tuple[StoredFile, ...] = ()
    folders: tuple[str, ...] = ()
    canaries: tuple[StoredFile, ...] = ()

    @property
    def all_files(self) -> tuple[StoredFile, ...]:
        """The model's files and its canaries."""
        return (*self.files, *self.canaries)

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(file.size for file in self.all_files)

    @property
    def blobs(self) -> dict[str, int]:
        """The size of each blob, by its digest."""
        return {file.digest: file.size for file in self.all_files}

    def same_content(self, other: "Snapshot") -> bool:
        """Whether both have the same files; who pushed them does not count."""
        return (self.files, self.folders, self.canaries) == (
            other.files,
            other.folders,
            other.canaries,
        )


def dump(snapshot: Snapshot) -> bytes:
    """The manifest of a snapshot."""
    document = {"format": FORMAT, "size": snapshot.size, **asdict(snapshot)}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def digest(manifest: bytes) -> str:
    """The digest of a snapshot, by its manifest."""
    return hashlib.sha256(manifest).hexdigest()


def load(manifest: bytes) -> Snapshot:
    """The snapshot that a manifest describes; fields that this version does not know are ignored.

    Raises:
        Rejected: it is not a manifest, of a later format, or names files outside its folder.
    """
    tree = fields.tree(manifest)
    if (found := fields.whole(tree, "format")) != FORMAT:
        raise Rejected(
            f"expected a manifest of format {FORMAT}, found format {found}: a later version of "
            "triton-sidecar wrote it"
        )
    snapshot = Snapshot(
        fields.text(tree, "model"),
        fields.text(tree, "created"),
        fields.text(tree, "by"),
        fields.text(tree, "source", ""),
        tuple(map(_file, fields.several(tree, "files"))),
        tuple(fields.text({"folder": each}, "folder") for each in fields.several(tree, "folders")),
        tuple(map(_file, fields.several(tree, "canaries", []))),
    )
    if mistake := next(_mistakes(snapshot), None):
        raise Rejected(f"expected a manifest, found {mistake}")
    return snapshot


def _file(value: object) -> StoredFile:
    tree = fields.mapping(value)
    path, digest = fields.text(tree, "path"), fields.text(tree, "digest")
    return StoredFile(path, fields.whole(tree, "size"), digest, fields.truth(tree, "executable"))


def is_path(path: str) -> bool:
    """Whether a path stays below its folder, and any file system can hold it."""
    return "\0" not in path and all(
        part not in ("", ".", "..") and len(part.encode(errors="replace")) <= _LONGEST_PART
        for part in path.split("/")
    )


def _mistakes(snapshot: Snapshot) -> Iterator[str]:
    if not names.is_model(snapshot.model):
        yield f"the model's name {snapshot.model!r:.100}"
    for file in snapshot.all_files:
        if not names.is_digest(file.digest) or file.size < 0:
            yield f"a digest or size that cannot be, of the file {file.path!r:.100}"
    paths = [*(file.path for file in snapshot.all_files), *snapshot.folders]
    yield from (f"the path {path!r:.100}" for path in paths if not is_path(path))
    yield from _ambiguous(paths)


def _ambiguous(paths: Iterable[str]) -> Iterator[str]:
    """What two files, or a file and a folder, share."""
    taken = set()
    for path in paths:
        if path in taken:
            yield f"the path {path!r:.100} twice"
        taken.add(path)
    for path in taken:
        parts = path.split("/")
        for count in range(1, len(parts)):
            if (above := "/".join(parts[:count])) in taken:
                yield f"the path {path!r:.100} below {above!r:.100}, which is no folder of files"
