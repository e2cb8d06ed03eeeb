"""What instances say that they have loaded."""

from sidecar.models.store.protection import META, protected

A, B = "a" * 64, "b" * 64


def test_digests_in_the_meta_of_entries() -> None:
    catalog = [{META: f"sha256:{A} {B}"}, {META: "none of ours"}, {}, {"version": "1"}]
    assert protected(catalog) == {A, B}
