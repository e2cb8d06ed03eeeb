"""A cached state is read completely or not at all."""

import json
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.xds.catalog import cached_state
from sidecar.xds.catalog.cached_state import CachedState, CorruptState, UnusableState
from sidecar.xds.catalog.policy_indexes import PolicyIndexes
from tests.support.xds.cached_states import (
    DOCUMENT,
    KEPT,
    ROLLBACKS,
    SERVICES,
    STATE,
    body,
    resealed,
)


def test_a_written_state_can_be_read() -> None:
    assert cached_state.load(DOCUMENT, SERVICES) == (STATE, 1_700_000_000)


def test_a_state_of_other_services_is_unusable() -> None:
    with pytest.raises(UnusableState, match="expected the services x, y, found triton, other"):
        cached_state.load(DOCUMENT, iter(("x", "y")))


def test_a_changed_list_of_services_keeps_the_known_ones() -> None:
    assert cached_state.load(DOCUMENT, iter(("new", "triton")))[0] == replace(
        STATE, services=("triton",)
    )
    assert cached_state.load(DOCUMENT, ("other", "new"))[0] == CachedState(("other",), {}, "east")


@pytest.mark.parametrize(("key", "without"), [("zone", None), ("rollbacks", {})])
def test_a_state_of_an_older_version_can_be_read(key: str, without: object) -> None:
    tree = json.loads(DOCUMENT.splitlines()[1])
    del tree["state"][key]
    document = resealed(json.dumps(tree).encode())
    assert cached_state.load(document, SERVICES)[0] == replace(STATE, **{key: without})  # type: ignore[arg-type]


def test_an_instance_of_an_older_version_can_be_read() -> None:
    tree = json.loads(DOCUMENT.splitlines()[1])
    for each in tree["state"]["kept"]["triton"]["instances"]:
        del each["ill"]
    assert cached_state.load(resealed(json.dumps(tree).encode()), SERVICES)[0] == STATE


def test_a_service_of_an_older_version_can_be_read() -> None:
    tree = json.loads(DOCUMENT.splitlines()[1])
    del tree["state"]["kept"]["triton"]["since"]
    read, _ = cached_state.load(resealed(json.dumps(tree).encode()), SERVICES)
    assert read.kept["triton"] == replace(KEPT, since=PolicyIndexes())


def test_unknown_fields_of_a_newer_version_are_ignored() -> None:
    tree = json.loads(DOCUMENT.splitlines()[1])
    for part in (tree, tree["state"], tree["state"]["rollbacks"]["triton"]):
        part["more"] = {"of": "it"}
    assert cached_state.load(resealed(json.dumps(tree).encode()), SERVICES)[0] == STATE


def test_a_rollback_of_an_unknown_service_is_corrupt() -> None:
    nonsense = cached_state.dump(replace(STATE, rollbacks={"stranger": ROLLBACKS["triton"]}), 0.0)
    with pytest.raises(CorruptState):
        cached_state.load(nonsense, SERVICES)


def test_another_format_is_refused() -> None:
    with pytest.raises(UnusableState, match="expected format 1, found 2") as caught:
        cached_state.load(b'{"format": 2, "sha": "x"}\nwhatever\n', SERVICES)
    assert not isinstance(caught.value, CorruptState)


@pytest.mark.parametrize("cut", [0, 1, 50, 100, len(DOCUMENT) // 2, len(DOCUMENT) - 2])
def test_a_truncated_document_is_corrupt(cut: int) -> None:
    with pytest.raises(CorruptState):
        cached_state.load(DOCUMENT[:cut], SERVICES)


@given(st.integers(0, len(DOCUMENT) - 2), st.integers(1, 255))
def test_a_flipped_bit_is_noticed(place: int, flip: int) -> None:
    changed = bytearray(DOCUMENT)
    changed[place] ^= flip
    try:
        found, _ = cached_state.load(bytes(changed), SERVICES)
    except UnusableState:
        return
    assert found == STATE  # it was in the header, where it does not matter


@given(st.binary() | st.binary().map(resealed))
@example(b"\n")
@example(resealed(b"{}"))
def test_random_bytes_are_refused(garbage: bytes) -> None:
    with pytest.raises(UnusableState):
        cached_state.load(garbage, SERVICES)


@pytest.mark.parametrize(
    "changes",
    [
        {"address": "gpu-1.local"},
        {"address": "0.0.0.0"},
        {"port": 0},
        {"health_port": 70_000},
        {"weight": 0},
        {"capacity": -1},
        {"health": "splendid"},
        {"id": "dc2/b"},
        {"port": None},
    ],
)
def test_an_instance_that_envoy_would_reject_is_refused(changes: dict[str, object]) -> None:
    assert cached_state.load(resealed(body()), SERVICES)[0] == STATE
    with pytest.raises(CorruptState):
        cached_state.load(resealed(body(**changes)), SERVICES)
