import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TrafficPolicy(_message.Message):
    __slots__ = ("mode", "weights", "release", "affinity", "locality", "limits", "health_check", "outlier_detection", "retry", "connection", "match", "admission", "routing", "models")
    class WeightsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class ModelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: ModelRule
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[ModelRule, _Mapping]] = ...) -> None: ...
    MODE_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    AFFINITY_FIELD_NUMBER: _ClassVar[int]
    LOCALITY_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    HEALTH_CHECK_FIELD_NUMBER: _ClassVar[int]
    OUTLIER_DETECTION_FIELD_NUMBER: _ClassVar[int]
    RETRY_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    MATCH_FIELD_NUMBER: _ClassVar[int]
    ADMISSION_FIELD_NUMBER: _ClassVar[int]
    ROUTING_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    mode: str
    weights: _containers.ScalarMap[str, int]
    release: Release
    affinity: Affinity
    locality: Locality
    limits: Limits
    health_check: HealthCheck
    outlier_detection: OutlierDetection
    retry: Retry
    connection: Connection
    match: Match
    admission: Admission
    routing: str
    models: _containers.MessageMap[str, ModelRule]
    def __init__(self, mode: _Optional[str] = ..., weights: _Optional[_Mapping[str, int]] = ..., release: _Optional[_Union[Release, _Mapping]] = ..., affinity: _Optional[_Union[Affinity, _Mapping]] = ..., locality: _Optional[_Union[Locality, _Mapping]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., health_check: _Optional[_Union[HealthCheck, _Mapping]] = ..., outlier_detection: _Optional[_Union[OutlierDetection, _Mapping]] = ..., retry: _Optional[_Union[Retry, _Mapping]] = ..., connection: _Optional[_Union[Connection, _Mapping]] = ..., match: _Optional[_Union[Match, _Mapping]] = ..., admission: _Optional[_Union[Admission, _Mapping]] = ..., routing: _Optional[str] = ..., models: _Optional[_Mapping[str, ModelRule]] = ...) -> None: ...

class ModelRule(_message.Message):
    __slots__ = ("to", "fallback")
    TO_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    to: str
    fallback: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, to: _Optional[str] = ..., fallback: _Optional[_Iterable[str]] = ...) -> None: ...

class Release(_message.Message):
    __slots__ = ("model_set", "tag", "percent", "sticky_header", "guard", "rolled_back")
    MODEL_SET_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    PERCENT_FIELD_NUMBER: _ClassVar[int]
    STICKY_HEADER_FIELD_NUMBER: _ClassVar[int]
    GUARD_FIELD_NUMBER: _ClassVar[int]
    ROLLED_BACK_FIELD_NUMBER: _ClassVar[int]
    model_set: str
    tag: str
    percent: int
    sticky_header: str
    guard: Guard
    rolled_back: str
    def __init__(self, model_set: _Optional[str] = ..., tag: _Optional[str] = ..., percent: _Optional[int] = ..., sticky_header: _Optional[str] = ..., guard: _Optional[_Union[Guard, _Mapping]] = ..., rolled_back: _Optional[str] = ...) -> None: ...

class Guard(_message.Message):
    __slots__ = ("max_error_percent", "max_latency", "min_requests", "window")
    MAX_ERROR_PERCENT_FIELD_NUMBER: _ClassVar[int]
    MAX_LATENCY_FIELD_NUMBER: _ClassVar[int]
    MIN_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    max_error_percent: float
    max_latency: _duration_pb2.Duration
    min_requests: int
    window: _duration_pb2.Duration
    def __init__(self, max_error_percent: _Optional[float] = ..., max_latency: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., min_requests: _Optional[int] = ..., window: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Affinity(_message.Message):
    __slots__ = ("header", "sequence_header")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_HEADER_FIELD_NUMBER: _ClassVar[int]
    header: str
    sequence_header: str
    def __init__(self, header: _Optional[str] = ..., sequence_header: _Optional[str] = ...) -> None: ...

class Locality(_message.Message):
    __slots__ = ("prefer_zone", "datacenters")
    PREFER_ZONE_FIELD_NUMBER: _ClassVar[int]
    DATACENTERS_FIELD_NUMBER: _ClassVar[int]
    prefer_zone: bool
    datacenters: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, prefer_zone: _Optional[bool] = ..., datacenters: _Optional[_Iterable[str]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_requests", "max_connections", "retry_budget_percent", "min_retry_concurrency", "retry_body_bytes", "retry_memory_bytes", "per_try_idle_timeout", "slow_start", "stream_idle_timeout", "max_stream_duration")
    MAX_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    MAX_CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    RETRY_BUDGET_PERCENT_FIELD_NUMBER: _ClassVar[int]
    MIN_RETRY_CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    RETRY_BODY_BYTES_FIELD_NUMBER: _ClassVar[int]
    RETRY_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    PER_TRY_IDLE_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    SLOW_START_FIELD_NUMBER: _ClassVar[int]
    STREAM_IDLE_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    MAX_STREAM_DURATION_FIELD_NUMBER: _ClassVar[int]
    max_requests: int
    max_connections: int
    retry_budget_percent: float
    min_retry_concurrency: int
    retry_body_bytes: int
    retry_memory_bytes: int
    per_try_idle_timeout: _duration_pb2.Duration
    slow_start: _duration_pb2.Duration
    stream_idle_timeout: _duration_pb2.Duration
    max_stream_duration: _duration_pb2.Duration
    def __init__(self, max_requests: _Optional[int] = ..., max_connections: _Optional[int] = ..., retry_budget_percent: _Optional[float] = ..., min_retry_concurrency: _Optional[int] = ..., retry_body_bytes: _Optional[int] = ..., retry_memory_bytes: _Optional[int] = ..., per_try_idle_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., slow_start: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., stream_idle_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_stream_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class HealthCheck(_message.Message):
    __slots__ = ("interval", "timeout", "unhealthy_threshold", "healthy_threshold", "interval_jitter_percent", "healthy_panic_threshold")
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    UNHEALTHY_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    HEALTHY_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_JITTER_PERCENT_FIELD_NUMBER: _ClassVar[int]
    HEALTHY_PANIC_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    interval: _duration_pb2.Duration
    timeout: _duration_pb2.Duration
    unhealthy_threshold: int
    healthy_threshold: int
    interval_jitter_percent: int
    healthy_panic_threshold: int
    def __init__(self, interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., unhealthy_threshold: _Optional[int] = ..., healthy_threshold: _Optional[int] = ..., interval_jitter_percent: _Optional[int] = ..., healthy_panic_threshold: _Optional[int] = ...) -> None: ...

class OutlierDetection(_message.Message):
    __slots__ = ("consecutive_local_origin_failure", "interval", "base_ejection_time", "max_ejection_time", "max_ejection_percent")
    CONSECUTIVE_LOCAL_ORIGIN_FAILURE_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    BASE_EJECTION_TIME_FIELD_NUMBER: _ClassVar[int]
    MAX_EJECTION_TIME_FIELD_NUMBER: _ClassVar[int]
    MAX_EJECTION_PERCENT_FIELD_NUMBER: _ClassVar[int]
    consecutive_local_origin_failure: int
    interval: _duration_pb2.Duration
    base_ejection_time: _duration_pb2.Duration
    max_ejection_time: _duration_pb2.Duration
    max_ejection_percent: int
    def __init__(self, consecutive_local_origin_failure: _Optional[int] = ..., interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., base_ejection_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_ejection_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_ejection_percent: _Optional[int] = ...) -> None: ...

class Retry(_message.Message):
    __slots__ = ("num_retries", "base_interval", "max_interval", "host_selection_retry_max_attempts", "retryable_status_codes", "idempotent")
    NUM_RETRIES_FIELD_NUMBER: _ClassVar[int]
    BASE_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    MAX_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    HOST_SELECTION_RETRY_MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_STATUS_CODES_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENT_FIELD_NUMBER: _ClassVar[int]
    num_retries: int
    base_interval: _duration_pb2.Duration
    max_interval: _duration_pb2.Duration
    host_selection_retry_max_attempts: int
    retryable_status_codes: _containers.RepeatedScalarFieldContainer[str]
    idempotent: bool
    def __init__(self, num_retries: _Optional[int] = ..., base_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., host_selection_retry_max_attempts: _Optional[int] = ..., retryable_status_codes: _Optional[_Iterable[str]] = ..., idempotent: _Optional[bool] = ...) -> None: ...

class Connection(_message.Message):
    __slots__ = ("connect_timeout", "keepalive_interval", "keepalive_timeout", "per_connection_buffer_limit_bytes")
    CONNECT_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    KEEPALIVE_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    KEEPALIVE_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    PER_CONNECTION_BUFFER_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    connect_timeout: _duration_pb2.Duration
    keepalive_interval: _duration_pb2.Duration
    keepalive_timeout: _duration_pb2.Duration
    per_connection_buffer_limit_bytes: int
    def __init__(self, connect_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., keepalive_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., keepalive_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., per_connection_buffer_limit_bytes: _Optional[int] = ...) -> None: ...

class Match(_message.Message):
    __slots__ = ("authorities", "path_prefixes", "headers")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    AUTHORITIES_FIELD_NUMBER: _ClassVar[int]
    PATH_PREFIXES_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    authorities: _containers.RepeatedScalarFieldContainer[str]
    path_prefixes: _containers.RepeatedScalarFieldContainer[str]
    headers: _containers.ScalarMap[str, str]
    def __init__(self, authorities: _Optional[_Iterable[str]] = ..., path_prefixes: _Optional[_Iterable[str]] = ..., headers: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Admission(_message.Message):
    __slots__ = ("methods",)
    METHODS_FIELD_NUMBER: _ClassVar[int]
    methods: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, methods: _Optional[_Iterable[str]] = ...) -> None: ...
