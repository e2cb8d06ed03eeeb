"""Names of xDS for people."""


def short(type_url: str) -> str:
    """The last part of a type's name: `ClusterLoadAssignment`."""
    return type_url.rpartition(".")[2]
