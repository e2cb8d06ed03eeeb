from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class WatchDrainRequest(_message.Message):
    __slots__ = ("service", "instance")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    service: str
    instance: str
    def __init__(self, service: _Optional[str] = ..., instance: _Optional[str] = ...) -> None: ...

class WatchDrainResponse(_message.Message):
    __slots__ = ("envoys", "envoys_acknowledged", "envoys_reported", "requests_in_flight")
    ENVOYS_FIELD_NUMBER: _ClassVar[int]
    ENVOYS_ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    ENVOYS_REPORTED_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    envoys: int
    envoys_acknowledged: int
    envoys_reported: int
    requests_in_flight: int
    def __init__(self, envoys: _Optional[int] = ..., envoys_acknowledged: _Optional[int] = ..., envoys_reported: _Optional[int] = ..., requests_in_flight: _Optional[int] = ...) -> None: ...

class WatchPrimaryRequest(_message.Message):
    __slots__ = ("service",)
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    service: str
    def __init__(self, service: _Optional[str] = ...) -> None: ...

class WatchPrimaryResponse(_message.Message):
    __slots__ = ("followed", "instance", "epoch", "envoys", "envoys_acknowledged")
    FOLLOWED_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ENVOYS_FIELD_NUMBER: _ClassVar[int]
    ENVOYS_ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    followed: bool
    instance: str
    epoch: int
    envoys: int
    envoys_acknowledged: int
    def __init__(self, followed: _Optional[bool] = ..., instance: _Optional[str] = ..., epoch: _Optional[int] = ..., envoys: _Optional[int] = ..., envoys_acknowledged: _Optional[int] = ...) -> None: ...

class GetFailuresRequest(_message.Message):
    __slots__ = ("service", "seconds")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    service: str
    seconds: float
    def __init__(self, service: _Optional[str] = ..., seconds: _Optional[float] = ...) -> None: ...

class GetFailuresResponse(_message.Message):
    __slots__ = ("measured", "requests", "failures")
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    measured: bool
    requests: int
    failures: int
    def __init__(self, measured: _Optional[bool] = ..., requests: _Optional[int] = ..., failures: _Optional[int] = ...) -> None: ...
