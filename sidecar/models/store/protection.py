"""Which snapshots instances say that they have loaded. Pure."""

from collections.abc import Iterable, Mapping

from sidecar.models.store.documents import names

META = "snapshots"  # of an entry in Consul: digests, separated by spaces


def protected(catalog: Iterable[Mapping[str, str]]) -> frozenset[str]:
    """The digests in the meta of a service's entries; what is no digest is ignored."""
    said = (each for meta in catalog for each in meta.get(META, "").split())
    digests = (each.removeprefix("sha256:") for each in said)
    return frozenset(digest for digest in digests if names.is_digest(digest))
