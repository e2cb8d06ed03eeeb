"""Reading the catalog repeatedly gives the same result as reading it once."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sidecar.consul.api import Check, ServiceEntry
from sidecar.xds.catalog.catalog_entries import EntryReader

STATUSES = st.sampled_from(["passing", "warning", "critical", "unheard of"])


def entry(node: str, number: int, status: str, address: str) -> ServiceEntry:
    return ServiceEntry(
        node=node,
        id=f"triton-{number}",
        name="triton",
        address=address,
        port=8001,
        tags=(),
        meta={"sidecar_grpc_port": "9001", "capacity": "8" if number else "many"},
        weight_passing=100,
        weight_warning=50,
        checks=(Check("c", "c", status, "as it is", f"triton-{number}"),),
    )


ENTRIES = st.builds(
    entry,
    st.sampled_from(["a", "b"]),
    st.integers(0, 3),
    STATUSES,
    st.sampled_from(["10.0.0.1", "10.0.0.2", "nowhere"]),
)


@given(st.lists(st.lists(ENTRIES, max_size=6), max_size=4))
def test_repeated_reads_equal_a_first_read(looks: list[list[ServiceEntry]]) -> None:
    reader, seen = EntryReader(), list[ServiceEntry]()
    for fresh in looks:
        # Some are the same objects as before, as those that Consul did not change are.
        seen = [*seen[::2], *fresh]
        assert reader.read(seen) == EntryReader().read(seen)


def test_a_changed_entry_is_read_again() -> None:
    reader, first = EntryReader(), entry("a", 1, "passing", "10.0.0.1")
    assert reader.read([first]) == EntryReader().read([first])
    moved = replace(first, address="10.0.0.2")
    assert reader.read([moved])[0][0].address == "10.0.0.2"
    assert reader.read([])[0] == ()
