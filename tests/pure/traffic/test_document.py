import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.runtime.errors import ConfigError
from sidecar.traffic import document
from sidecar.traffic.constraints import KEYS, RULES
from sidecar.traffic.document import changes, dump, parse, policy_key, tree
from sidecar.traffic.policy import (
    DEFAULTS,
    Affinity,
    Guard,
    Limits,
    Match,
    Mode,
    ModelRule,
    Release,
    TrafficPolicy,
)
from sidecar.v1.traffic_policy_pb2 import TrafficPolicy as Schema
from tests.support.traffic_policies import ANYTHING, policies, spoilt

HEADER = "expected the name of a header in lower case, not one of a connection's own"


def refused(given: object) -> list[str]:
    """The mistakes that are reported for a document."""
    with pytest.raises(ConfigError) as caught:
        parse(given if isinstance(given, str | bytes) else json.dumps(given))
    return str(caught.value).splitlines()


def test_an_empty_document_is_the_default() -> None:
    assert parse("{}") == DEFAULTS
    assert dump(DEFAULTS) == "{}\n"


def test_a_complete_document() -> None:
    text = """
    {
      "mode": "weighted",
      "weights": {"triton-1": 1, "triton-0": 3},
      "release": {
        "tag": "v2", "percent": 5, "sticky_header": "x-user",
        "guard": {"max_error_percent": 1, "max_latency": "0.5s"}
      },
      "affinity": {"header": "x-session"},
      "locality": {"prefer_zone": true, "datacenters": ["dc2", "dc3"]},
      "limits": {"max_requests": 100, "retry_memory_bytes": "4294967296", "slow_start": "30s"},
      "match": {"authorities": ["chat.example"], "headers": {"x-team": "chat"}},
      "routing": "by-model",
      "models": {"embed": {"to": "embed"}, "chat": {"to": "qwen-7b", "fallback": ["qwen-0_5b"]}}
    }
    """
    found = parse(text)
    assert found.weights == (("triton-0", 3), ("triton-1", 1))
    assert found.release == Release("", "v2", 5, "x-user", Guard(1.0, 0.5))
    assert found.limits == Limits(max_requests=100, retry_memory_bytes=2**32, slow_start=30.0)
    assert found.match == Match(("chat.example",), (), (("x-team", "chat"),))
    assert found.models == (
        ("chat", ModelRule("qwen-7b", ("qwen-0_5b",))),
        ("embed", ModelRule("embed")),
    )
    assert parse(dump(found)) == found


@pytest.mark.parametrize("name", ["consecutive_gateway_failure", "consecutiveGatewayFailure"])
def test_a_document_of_an_earlier_version_is_read(name: str) -> None:
    found = parse(json.dumps({"outlier_detection": {name: 9}}))
    assert found.outlier_detection.consecutive_local_origin_failure == 9
    assert "consecutive_local_origin_failure" in dump(found)


def test_an_empty_list_is_the_default() -> None:
    # Protobuf does not distinguish it from none.
    found = parse('{"retry": {"retryable_status_codes": []}, "admission": {"methods": []}}')
    assert found == DEFAULTS


def test_every_format_that_protobuf_accepts_is_accepted() -> None:
    snake = parse('{"limits": {"max_requests": 5, "slow_start": "1.5s"}, "release": null}')
    camel = parse(
        b'{"limits": {"maxRequests": 5.0, "slowStart": "1.500s", "maxConnections": null}}'
    )
    assert snake == camel


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "expected an object, found a list"),
        (
            {"mode": "fast"},
            ('mode: expected one of active-standby, active-active, weighted, strict, found "fast"'),
        ),
        (
            {"mod": 1},
            (
                "mod: unknown key; expected one of mode, weights, release, affinity, locality, "
                "limits, health_check, outlier_detection, retry, connection, match, admission, "
                "routing, models"
            ),
        ),
        (
            {"match": {"host": 1}},
            ("match.host: unknown key; expected one of authorities, path_prefixes, headers"),
        ),
        ({"limits": 5}, "limits: expected an object, found 5"),
        (
            {"limits": {"max_requests": 0}},
            "limits.max_requests: expected a whole number from 1 to 4294967295, found 0",
        ),
        (
            {"limits": {"max_requests": 2**32}},
            "limits.max_requests: expected a whole number from 1 to 4294967295, found 4294967296",
        ),
        (
            {"limits": {"max_requests": True}},
            "limits.max_requests: expected a whole number from 1 to 4294967295, found true",
        ),
        (
            {"limits": {"slow_start": "0.0001s"}},
            (
                "limits.slow_start: expected a duration such as "
                '"0.5s", from 0.001s to 31536000s, found "0.0001s"'
            ),
        ),
        (
            {"limits": {"slow_start": 5}},
            (
                "limits.slow_start: expected a duration such as "
                '"0.5s", from 0.001s to 31536000s, found 5'
            ),
        ),
        (
            {"limits": {"retry_budget_percent": 101}},
            "limits.retry_budget_percent: expected a number from 0 to 100, found 101",
        ),
        (
            {"limits": {"retry_memory_bytes": 100}},
            (
                "limits.retry_memory_bytes: expected at least limits.retry_body_bytes (75497472), "
                "found 100"
            ),
        ),
        (
            {"limits": {"max_requests": 1, "maxRequests": 1}},
            "limits.maxRequests: expected max_requests once, by one name",
        ),
        (
            {
                "outlier_detection": {
                    "consecutive_gateway_failure": 9,
                    "consecutive_local_origin_failure": 9,
                }
            },
            (
                "outlier_detection.consecutive_local_origin_failure: "
                "expected consecutive_local_origin_failure once, by one name"
            ),
        ),
        (
            {"outlier_detection": {"consecutive_gateway_failure": 0}},
            (
                "outlier_detection.consecutive_local_origin_failure: "
                "expected a whole number from 1 to 4294967295, found 0"
            ),
        ),
        (
            {"retry": {"retryable_status_codes": ["INVALID_ARGUMENT"]}},
            (
                "retry.retryable_status_codes.0: expected one of UNKNOWN, NOT_FOUND, "
                "RESOURCE_EXHAUSTED, ABORTED, INTERNAL, UNAVAILABLE, DATA_LOSS, "
                'found "INVALID_ARGUMENT"'
            ),
        ),
        (
            {"retry": {"retryable_status_codes": ["INTERNAL", "INTERNAL"]}},
            'retry.retryable_status_codes: expected each once, found "INTERNAL" 2 times',
        ),
        ({"retry": {"idempotent": 0}}, "retry.idempotent: expected true or false, found 0"),
        (
            {"admission": {"methods": ["RepositoryIndex"]}},
            (
                "admission.methods.0: expected a method such as "
                '"/inference.GRPCInferenceService/RepositoryIndex", or a service with all of its '
                'methods, such as "/my.Service/", found "RepositoryIndex"'
            ),
        ),
        ({"mode": "weighted"}, 'weights: expected at least one instance with mode "weighted"'),
        (
            {"weights": {"a": 1}},
            'weights: expected none with mode "active-standby": only "weighted" has them',
        ),
        (
            {"mode": "weighted", "weights": {"a": 65_536}},
            "weights.a: expected a whole number from 1 to 65535, found 65536",
        ),
        (
            {"mode": "weighted", "weights": {"a b": 1, "c": 1}},
            'weights."a b": expected the id of an instance in Consul as the key',
        ),
        (
            {"release": {"percent": 5}},
            "release: expected model_set or tag: which instances it is about",
        ),
        (
            {"release": {"tag": "a", "model_set": "b"}},
            "release: expected model_set or tag, not both",
        ),
        (
            {"release": {"tag": "a", "percent": 101}},
            "release.percent: expected a whole number from 0 to 100, found 101",
        ),
        (
            {"release": {"tag": "a", "guard": {}}},
            "release.guard: expected max_error_percent, max_latency or both",
        ),
        (
            {"mode": "strict", "health_check": {"healthy_panic_threshold": 1}},
            (
                'health_check.healthy_panic_threshold: expected 0 with mode "strict": '
                "the primary is alone there"
            ),
        ),
        (
            {"mode": "strict", "release": {"tag": "a"}},
            'release: expected none with mode "strict": the primary is alone there',
        ),
        (
            {"release": {"tag": "a", "sticky_header": "X-User"}},
            f'release.sticky_header: {HEADER}, found "X-User"',
        ),
        (
            {"mode": "active-active", "affinity": {"header": ":path"}},
            f'affinity.header: {HEADER}, found ":path"',
        ),
        (
            {"affinity": {"sequence_header": "upgrade"}},
            f'affinity.sequence_header: {HEADER}, found "upgrade"',
        ),
        (
            {"affinity": {"header": "x-session"}},
            (
                'affinity.header: expected mode "active-active" or '
                '"weighted": elsewhere one instance has all requests'
            ),
        ),
        ({"locality": {"prefer_zone": 1}}, "locality.prefer_zone: expected true or false, found 1"),
        (
            {"locality": {"datacenters": "dc2"}},
            'locality.datacenters: expected a list, found "dc2"',
        ),
        (
            {"locality": {"datacenters": ["dc2", "dc 3"]}},
            (
                "locality.datacenters.1: expected a datacenter's name: letters, digits, _ and -, "
                'found "dc 3"'
            ),
        ),
        (
            {"locality": {"datacenters": ["dc2", "dc2"]}},
            'locality.datacenters: expected each once, found "dc2" 2 times',
        ),
        (
            {"health_check": {"healthy_threshold": 0}},
            "health_check.healthy_threshold: expected a whole number from 1 to 4294967295, found 0",
        ),
        (
            {"outlier_detection": {"base_ejection_time": "60s"}},
            (
                "outlier_detection.max_ejection_time: "
                "expected at least outlier_detection.base_ejection_time (60s)"
            ),
        ),
        (
            {"retry": {"max_interval": "0.001s"}},
            "retry.max_interval: expected at least retry.base_interval (0.005s)",
        ),
        (
            {"match": {"authorities": ["a", "A"]}},
            'match.authorities: expected each once, found "a" 2 times',
        ),
        (
            {"match": {"authorities": ["a:80"]}},
            (
                "match.authorities.0: expected a host's name or "
                'address, without a port, found "a:80"'
            ),
        ),
        (
            {"match": {"path_prefixes": ["a"]}},
            (
                "match.path_prefixes.0: expected the beginning of a "
                'path, such as "/inference.", found "a"'
            ),
        ),
        (
            {"match": {"headers": {"x-a": 1}}},
            "match.headers.x-a: expected the value of a header in ASCII, found 1",
        ),
        ({"routing": "model"}, 'routing: expected one of by-service, by-model, found "model"'),
        (
            {"models": {"chat": {"to": "a"}}},
            'models: expected none without routing "by-model", which reads them',
        ),
        (
            {"routing": "by-model", "models": {"a/b": {"to": "a"}}},
            "models.a/b: expected a model's name: no slash, no control character as the key",
        ),
        (
            {"routing": "by-model", "models": {"chat": {}}},
            "models.chat: expected to, fallback or both: which models answer",
        ),
        (
            {"routing": "by-model", "models": {"chat": {"fallback": ["b", "chat"]}}},
            'models.chat: expected each model once, found "chat" 2 times',
        ),
        (
            {"routing": "by-model", "models": {"chat": {"to": "a", "fallback": ["b", 1]}}},
            (
                "models.chat.fallback.1: expected a model's name: no slash, no control character, "
                "found 1"
            ),
        ),
        (
            {"routing": "by-model", "models": {"chat": {"into": "a"}}},
            "models.chat.into: unknown key; expected one of to, fallback",
        ),
        ('{"retry": {}, "retry": {}}', "retry: expected once, found twice"),
        ("", "expected JSON, found a mistake at line 1, column 1: Expecting value"),
        (
            '{"limits": {"retry_budget_percent": NaN}}',
            "expected JSON, found NaN, which it does not have",
        ),
        ("1" * 5000, "expected JSON, found a number of very many digits"),
        ("[" * 100_000, "expected JSON of a few levels, found very many"),
        (" " * 300_000, "expected a document of at most 262144 characters, found 300000"),
        (b"\xff", "expected JSON in UTF-8, found other bytes"),
    ],
)
def test_a_mistake_is_reported(given: object, message: str) -> None:
    assert refused(given) == [message]


def test_all_mistakes_are_reported_at_once_without_consequential_ones() -> None:
    given = {
        "mode": "weigthed",
        "weights": {"a": 0},
        "affinity": {"header": "x-session"},
        "retry": {"num_retries": -1, "base_interval": "5s"},
        "limits": {"retry_memory_bytes": 1, "retry_body_bytes": 0},
    }
    keys = [line.partition(": ")[0] for line in refused(given)]
    assert keys == [
        *("mode", "weights.a", "retry.num_retries", "limits.retry_body_bytes"),
        "retry.max_interval",
    ]


def test_the_number_of_reported_mistakes_is_limited() -> None:
    lines = refused({f"key-{each}": 1 for each in range(1000)})
    assert len(lines) == 51
    assert lines[-1] == "and 950 more mistakes"


def leaves(descriptor: Any, path: str = "") -> Iterator[str]:
    for field in descriptor.fields:
        inner = f"{path}.{field.name}".lstrip(".")
        nested = field.message_type
        if nested and nested.GetOptions().map_entry:
            assert inner in KEYS
            value = nested.fields_by_name["value"].message_type
            yield from leaves(value, f"{inner}.*") if value else (f"{inner}.*",)
        elif nested and nested.full_name != "google.protobuf.Duration":
            yield from leaves(nested, inner)
        else:
            yield f"{inner}.*" if field.is_repeated else inner


def test_each_key_of_the_schema_has_a_rule() -> None:
    assert list(leaves(Schema.DESCRIPTOR)) == list(RULES)


def test_each_written_key_is_in_the_schema() -> None:
    whole = replace(DEFAULTS, release=Release("a", guard=Guard(1.0, 1.0)))
    json_format.ParseDict(tree(whole, whole=True), Schema())


@given(policy=policies())
def test_a_written_policy_is_read_back(policy: TrafficPolicy) -> None:
    text = dump(policy)
    assert parse(text) == policy
    assert dump(parse(text)) == text
    assert parse(json.dumps(tree(policy, whole=True))) == policy
    # And protobuf reads the same.
    message = json_format.Parse(text, Schema())
    printed = json_format.MessageToJson(message, preserving_proto_field_name=True)
    assert parse(printed) == policy
    camel = json_format.MessageToJson(message)
    assert parse(camel) == policy


@given(text=st.text() | st.binary() | st.binary().map(lambda data: data.decode("latin-1")))
def test_any_text_is_read_or_rejected(text: str | bytes) -> None:
    check(text)


@given(found=ANYTHING)
@example(found={"weights": {"\ud800": 1}, "mode": "weighted"})
@example(found={"limits": {"max_requests": 10**400}})
@example(found={"limits": {"retry_budget_percent": 10**400}})
def test_any_json_is_read_or_rejected(found: object) -> None:
    check(json.dumps(found))


@given(data=st.data())
def test_any_corrupted_document_is_read_or_rejected(data: st.DataObject) -> None:
    policy = data.draw(policies())
    check(json.dumps(data.draw(spoilt(tree(policy, whole=data.draw(st.booleans()))))))
    text = dump(policy)
    at = data.draw(st.integers(0, len(text)))
    check(text[:at] + data.draw(st.text(max_size=2)) + text[at + data.draw(st.integers(0, 9)) :])


def check(text: str | bytes) -> None:
    """It is accepted, by protobuf too, or rejected with our own messages."""
    try:
        found = parse(text)
    except ConfigError as error:
        lines = str(error).splitlines()
        assert lines
        for line in lines:
            assert "expected" in line or line.startswith("and ")
            assert len(line) < 1000
            line.encode()
        return
    assert parse(dump(found)) == found
    message = json_format.Parse(text, Schema())
    assert parse(json_format.MessageToJson(message)) == found


@pytest.mark.parametrize("seconds", [0.001, 0.5, 30.0, 1e-3 + 1e-9, 31_536_000.0, 12345.678901234])
def test_durations_are_written_in_protobufs_format(seconds: float) -> None:
    text = tree(TrafficPolicy(limits=Limits(slow_start=seconds)))["limits"]["slow_start"]
    Duration().FromJsonString(text)
    assert float(text[:-1]) == pytest.approx(seconds, abs=1e-9)


def test_changes_name_the_keys() -> None:
    before = parse('{"limits": {"max_requests": 5}, "release": {"tag": "v2", "percent": 1}}')
    after = parse(
        '{"mode": "active-active", "affinity": {"header": "x-a"}, "retry": {"num_retries": 2}}'
    )
    assert [str(each) for each in changes(before, after)] == [
        'mode: "active-active", was "active-standby"',
        'release.tag: no longer set, was "v2"',
        "release.percent: no longer set, was 1",
        "limits.max_requests: no longer set, was 5",
        "retry.num_retries: 2, was 1",
        'affinity.header: "x-a", was not set',
    ]
    assert changes(before, before) == ()


@given(before=policies(), after=policies())
def test_there_are_changes_exactly_if_policies_differ(
    before: TrafficPolicy, after: TrafficPolicy
) -> None:
    assert bool(changes(before, after)) == (before != after)


def test_the_key_in_consul() -> None:
    assert policy_key("chat") == "triton-sidecar/chat/policy"
    assert TrafficPolicy() == DEFAULTS == document.parse("{}")
    assert Affinity() == DEFAULTS.affinity
    assert Mode("strict") is Mode.STRICT
