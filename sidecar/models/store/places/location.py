"""Opens a store by its folder or URL.

Acts: through what it imports.
"""

from pathlib import Path

from sidecar.models.store.places.backend import Backend
from sidecar.models.store.places.folder import FolderBackend
from sidecar.runtime.errors import ConfigError, PartMissing

_S3 = "s3://"


def backend(place: str) -> Backend:
    """The place of a store: a folder, or a bucket such as `s3://bucket/prefix`.

    Raises:
        ConfigError: it is neither.
        PartMissing: the package for buckets is not installed.
    """
    if place.startswith(_S3):
        try:
            from sidecar.models.store.places import bucket
        except ImportError as error:
            raise PartMissing(
                f"{place}: needs the package {error.name}; "
                "`pip install 'triton-sidecar[s3]'` installs it"
            ) from error
        return bucket.connect(place)
    if "://" in place or not place.strip() or "\0" in place:
        raise ConfigError(f"expected a folder or s3://BUCKET/PREFIX, found {place!r:.100}")
    return FolderBackend(Path(place).expanduser())


def is_remote(place: str) -> bool:
    """Whether a store is on another machine by its address."""
    return place.startswith(_S3)
