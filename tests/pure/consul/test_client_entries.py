"""Entries of Consul's answers: what was read before is not read again, and nothing is missed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.consul.api import QueryResult, ServiceEntry
from sidecar.consul.client import _answer, _health_entries, _health_entry, _is_local
from sidecar.consul.transport import Response
from sidecar.runtime.errors import Unavailable

# What could be taken for the place between two entries.
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


def said(entries: list[dict[str, Any]], **style: Any) -> bytes:
    return json.dumps(entries, **style).encode()


def read(content: bytes, known: dict[bytes, ServiceEntry] | None = None) -> list[ServiceEntry]:
    return [found for _, found in _health_entries(content, known or {})]


@given(
    st.lists(st.tuples(texts, st.none() | st.lists(st.dictionaries(texts, texts), max_size=2))),
    st.sampled_from([None, (",", ":")]),
    st.booleans(),
)
def test_as_if_read_at_once(
    found: list[tuple[str, Any]], separators: tuple[str, str] | None, ascii_only: bool
) -> None:
    entries = [entry(number, *each) for number, each in enumerate(found)]
    content = said(entries, separators=separators, ensure_ascii=ascii_only)
    assert read(content) == list(map(_health_entry, entries))


def test_a_separator_that_stands_deeper() -> None:
    deeper = [entry(0, config=[{}, {"Node": {}}]), entry(1)]
    assert read(said(deeper, separators=(",", ":"))) == list(map(_health_entry, deeper))


def test_only_what_has_changed_is_read_again() -> None:
    before = said([entry(0), entry(1), entry(2)], separators=(",", ":"))
    after = said([entry(0), entry(1, "CRITICAL"), entry(2)], separators=(",", ":"))
    known = dict(_health_entries(before, {}))
    old, new = read(before, known), read(after, known)
    assert [one is another for one, another in zip(old, new, strict=True)] == [True, False, True]
    assert new == read(after)


def test_what_is_no_json_is_no_answer() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        read(b'[{"Node":{"},{"Node":{}]')


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:8500", True),
        ("http://localhost:8500", True),
        ("https://[::1]:8501", True),
        ("http://10.0.0.1:8500", False),
        ("https://consul.example:8501", False),
    ],
)
def test_whether_the_agent_is_on_this_machine(url: str, local: bool) -> None:
    assert _is_local(url) is local


@pytest.mark.parametrize(
    ("headers", "answer"),
    [
        ({"X-Consul-Index": "7", "X-Consul-KnownLeader": "true"}, QueryResult((), 7, True)),
        ({"X-Consul-KnownLeader": "false"}, QueryResult((), 1, False)),
        (
            {"X-Consul-KnownLeader": "true", "X-Consul-Results-Filtered-By-ACLs": "true"},
            QueryResult((), 1, True, filtered=True),
        ),
        ({"X-Consul-Query-Backend": "streaming"}, QueryResult((), 1, False, streamed=True)),
    ],
)
def test_what_the_headers_say_of_an_answer(
    headers: dict[str, str], answer: QueryResult[tuple[()]]
) -> None:
    headers = {"X-Consul-Index": "1", **headers}
    assert _answer(Response(200, headers, "[]", b"[]"), ()) == answer


def test_an_answer_without_an_index_is_none_of_consuls() -> None:
    with pytest.raises(Unavailable, match="200 without X-Consul-Index, so not from Consul"):
        _answer(Response(200, {}, "[]", b"[]"), ())
