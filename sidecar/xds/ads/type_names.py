"""Short names of xDS types, for people."""


def short(type_url: str) -> str:
    """The last part of a type's name: `ClusterLoadAssignment`."""
    return type_url.rpartition(".")[2]
