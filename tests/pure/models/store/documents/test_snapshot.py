"""Manifests: canonical, and not trusted."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.models.store.documents import snapshot
from sidecar.models.store.documents.snapshot import Snapshot, StoredFile
from sidecar.runtime.errors import Rejected

DIGEST = "ab" * 32
FILE = StoredFile("1/model.py", 3, DIGEST)
SNAPSHOT = Snapshot("chat", "2026-01-02T03:04:05.678Z", "somebody", "commit", (FILE,), ("2",), ())
Change = Callable[[dict[str, Any]], object]


def test_a_manifest_says_what_the_snapshot_is() -> None:
    assert snapshot.load(snapshot.dump(SNAPSHOT)) == SNAPSHOT


def test_equal_snapshots_have_one_digest() -> None:
    digest = snapshot.digest(snapshot.dump(SNAPSHOT))
    assert snapshot.digest(snapshot.dump(replace(SNAPSHOT))) == digest
    assert snapshot.digest(snapshot.dump(replace(SNAPSHOT, by="another"))) != digest


def test_whoever_pushed_it_the_content_is_the_same() -> None:
    assert SNAPSHOT.same_content(replace(SNAPSHOT, by="another", source=""))
    assert not SNAPSHOT.same_content(replace(SNAPSHOT, folders=()))
    executable = replace(FILE, executable=True)
    assert not SNAPSHOT.same_content(replace(SNAPSHOT, files=(executable,)))


def test_a_later_version_may_add_fields() -> None:
    document = json.loads(snapshot.dump(SNAPSHOT)) | {"signed": True}
    document["files"][0]["compressed"] = 1
    assert snapshot.load(json.dumps(document).encode()) == SNAPSHOT


# What an attacker, or a mistake, would have a pull write outside its folder, or twice.
@pytest.mark.parametrize(
    "change",
    [
        lambda it: it["files"][0].update(path="../../etc/cron.d/x"),
        lambda it: it["files"][0].update(path="/etc/passwd"),
        lambda it: it["files"][0].update(path="1/../../x"),
        lambda it: it["files"][0].update(path=""),
        lambda it: it["files"][0].update(path="1//x"),
        lambda it: it["files"][0].update(path="a\0b"),
        lambda it: it["files"][0].update(path="x" * 256),
        lambda it: it["files"][0].update(digest="../../../etc/passwd"),
        lambda it: it["files"][0].update(digest=DIGEST.upper()),
        lambda it: it["files"][0].update(path="half \ud800"),
        lambda it: it["files"][0].update(size=-1),
        lambda it: it["files"][0].update(size=True),
        lambda it: it["files"][0].update(size=1.5),
        lambda it: it["files"][0].update(executable=1),
        lambda it: it["files"].append("1/model.py"),
        lambda it: it["folders"].append(1),
        lambda it: it.update(by=None),
        lambda it: it["files"].append(it["files"][0]),
        lambda it: it["files"].append({**it["files"][0], "path": "1"}),
        lambda it: it["canaries"].append(it["files"][0]),
        lambda it: it["folders"].append("../x"),
        lambda it: it["folders"].append("1/model.py"),
        lambda it: it["folders"].append("1"),
        lambda it: it.update(model="../chat"),
        lambda it: it.update(format=2),
        lambda it: it.pop("files"),
    ],
)
def test_what_no_manifest_may_say(change: Change) -> None:
    document = json.loads(snapshot.dump(SNAPSHOT))
    change(document)
    with pytest.raises(Rejected):
        snapshot.load(json.dumps(document).encode())


@given(
    st.binary()
    | st.text().map(str.encode)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda more: st.lists(more) | st.dictionaries(st.text(), more),
    ).map(lambda tree: json.dumps(tree).encode())
)
def test_anything_else_is_rejected(document: bytes) -> None:
    with pytest.raises(Rejected):
        snapshot.load(document)


@given(st.text(min_size=1))
def test_a_path_that_is_accepted_stays_below_its_folder(path: str) -> None:
    if snapshot.is_path(path):
        assert not {"", ".", ".."} & set(path.split("/"))
