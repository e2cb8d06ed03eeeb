"""Requests: the parameters and the deadline of a query, and the names of operations."""

import pytest

from sidecar.consul.request import Query, operation_name


@pytest.mark.parametrize(
    ("query", "params", "blocks_for"),
    [
        (Query("/v1/kv/a"), {}, 0),
        (Query("/v1/kv/a", wait=16.0), {}, 0),  # without an index Consul answers at once
        (Query("/v1/kv/a", index=7, wait=16.0), {"index": "7", "wait": "16000ms"}, 17),
        (Query("/v1/kv/a", consistent=True), {"consistent": "1"}, 0),
        (
            Query("/v1/kv/a", dc="b", near="_agent", more={"recurse": "1"}),
            {"recurse": "1", "dc": "b", "near": "_agent"},
            0,
        ),
    ],
)
def test_a_query_blocks_only_on_an_index(
    query: Query, params: dict[str, str], blocks_for: float
) -> None:
    assert (query.params, query.blocks_for) == (params, blocks_for)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/session/create", "session/create"),
        ("/v1/agent/service/register", "agent/service/register"),
        ("/v1/agent/service/triton-0", "agent/service"),
        ("/v1/health/service/triton", "health/service"),
        ("/v1/kv/triton-sidecar/triton/leader", "kv"),
    ],
)
def test_an_operation_has_one_name_whatever_the_id(path: str, name: str) -> None:
    assert operation_name(path) == name
