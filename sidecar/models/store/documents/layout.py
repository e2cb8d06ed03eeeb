"""Where everything is in a store: keys below its folder or prefix. Pure."""

from sidecar.models.store.documents import names

BLOBS, MANIFESTS, NAMES, PARTIAL = "blobs", "manifests", "names", "partial"
_SHA256 = "sha256"


def blob(digest: str) -> str:
    """The key of a blob."""
    return f"{BLOBS}/{_SHA256}/{digest[:2]}/{digest}"


def manifest(digest: str) -> str:
    """The key of a snapshot's manifest."""
    return f"{MANIFESTS}/{_SHA256}/{digest[:2]}/{digest}"


def name(model: str, tag: str) -> str:
    """The key of the document that says which snapshot has a name."""
    return f"{NAMES}/{model}/{tag}"


def digest_at(key: str) -> str | None:
    """The digest of the blob or manifest with this key; None if it is something else."""
    digest = key.rpartition("/")[2]
    known = names.is_digest(digest) and key in (blob(digest), manifest(digest))
    return digest if known else None


def name_at(key: str) -> tuple[str, str] | None:
    """The model and tag that the document with this key is about; None for any other key."""
    match key.split("/"):
        case [folder, model, tag] if folder == NAMES and names.is_model(model):
            return (model, tag) if names.is_tag(tag) else None
    return None
