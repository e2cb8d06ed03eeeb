"""The documents of names."""

import json

import pytest

from sidecar.models.store.documents import tags
from sidecar.models.store.documents.tags import Naming, Tag
from sidecar.runtime.errors import Rejected

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
AT = "2026-01-02T03:04:05.678Z"


def test_a_moved_name_keeps_what_it_was() -> None:
    tag = Tag(A, AT, "x").moved(Naming(B, AT, "y")).moved(Naming(C, AT, "z"))
    assert tag.last(1) == (C,)
    assert tag.last(2) == (C, B)
    assert tag.last(9) == (C, B, A)
    assert tags.load(tags.dump(tag)) == tag


def test_a_snapshot_counts_once_though_the_name_came_back_to_it() -> None:
    tag = Tag(A, AT, "x").moved(Naming(B, AT, "y")).moved(Naming(A, AT, "x"))
    assert tag.last(2) == (A, B)


def test_the_history_does_not_grow_for_ever() -> None:
    tag = Tag(A, AT, "x")
    for _ in range(100):
        tag = tag.moved(Naming(B, AT, "y"))
    assert len(tag.previous) == 50


@pytest.mark.parametrize("document", [b"", b"{}", b"[]", b'{"digest": "x", "at": "", "by": ""}'])
def test_something_else_is_rejected(document: bytes) -> None:
    with pytest.raises(Rejected):
        tags.load(document)


def test_a_digest_that_is_a_path_is_rejected() -> None:
    document = json.loads(tags.dump(Tag(A, AT, "x")))
    document["previous"] = [{"digest": "../x", "at": AT, "by": "y"}]
    with pytest.raises(Rejected):
        tags.load(json.dumps(document).encode())


def test_a_merged_name_has_the_history_of_both() -> None:
    first, second, third = (
        Naming(f"{n:064x}", f"2026-01-0{n}T00:00:00.000Z", "x") for n in (1, 2, 3)
    )
    here = Tag(third.digest, third.at, third.by, (first,))
    there = Tag(second.digest, second.at, second.by, (first,))
    merged = here.merged(there)
    assert merged == Tag(third.digest, third.at, third.by, (second, first))
    assert here.merged(merged) == merged
    assert merged.digests == (third.digest, second.digest, first.digest)
