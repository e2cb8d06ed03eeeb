"""Parsing of `health/service`: known entries are not reparsed, and none is missed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.consul.api import ServiceEntry
from sidecar.consul.parsing import parse_health_entries, parse_health_entry

# Text that could be mistaken for the boundary between two entries.
NASTY = ['},{"Node":{', "}]", "[{", '\\"', "ü", ""]
texts = st.sampled_from(NASTY) | st.text(max_size=8)


def entry(number: int, output: str = "PASSING", config: Any = None) -> dict[str, Any]:
    check = {"CheckID": "c", "Name": "c", "Status": "passing", "Output": output, "ServiceID": "s"}
    return {
        "Node": {"Node": f"node-{number}", "Address": "10.0.0.1"},
        "Service": {
            "ID": f"triton-{number}",
            "Service": "triton",
            "Address": "",
            "Port": 8001,
            "Tags": [output],
            "Meta": {"zone": output},
            "Proxy": {"Config": config},
        },
        "Checks": [check],
    }


def body(entries: list[dict[str, Any]], **style: Any) -> bytes:
    return json.dumps(entries, **style).encode()


def read(content: bytes, known: dict[bytes, ServiceEntry] | None = None) -> list[ServiceEntry]:
    return [found for _, found in parse_health_entries(content, known or {})]


@given(
    st.lists(st.tuples(texts, st.none() | st.lists(st.dictionaries(texts, texts), max_size=2))),
    st.sampled_from([None, (",", ":")]),
    st.booleans(),
)
def test_entries_equal_those_of_a_full_parse(
    found: list[tuple[str, Any]], separators: tuple[str, str] | None, ascii_only: bool
) -> None:
    entries = [entry(number, *each) for number, each in enumerate(found)]
    content = body(entries, separators=separators, ensure_ascii=ascii_only)
    assert read(content) == list(map(parse_health_entry, entries))


def test_a_separator_inside_an_entry_does_not_split_it() -> None:
    deeper = [entry(0, config=[{}, {"Node": {}}]), entry(1)]
    assert read(body(deeper, separators=(",", ":"))) == list(map(parse_health_entry, deeper))


def test_only_changed_entries_are_reparsed() -> None:
    before = body([entry(0), entry(1), entry(2)], separators=(",", ":"))
    after = body([entry(0), entry(1, "CRITICAL"), entry(2)], separators=(",", ":"))
    known = dict(parse_health_entries(before, {}))
    old, new = read(before, known), read(after, known)
    assert [one is another for one, another in zip(old, new, strict=True)] == [True, False, True]
    assert new == read(after)


def test_malformed_json_is_an_error() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        read(b'[{"Node":{"},{"Node":{}]')
