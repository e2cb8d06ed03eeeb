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
