from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor

class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REASON_UNSPECIFIED: _ClassVar[Reason]
    REASON_OK: _ClassVar[Reason]
    REASON_NOT_PROVEN_YET: _ClassVar[Reason]
    REASON_DRAINING: _ClassVar[Reason]
    REASON_MAINTENANCE: _ClassVar[Reason]
    REASON_CONFIG: _ClassVar[Reason]
    REASON_COLD_STANDBY: _ClassVar[Reason]
    REASON_MODEL_SET_DIFFERS: _ClassVar[Reason]
    REASON_PORT_UNREACHABLE: _ClassVar[Reason]
    REASON_SERVER_UNANSWERED: _ClassVar[Reason]
    REASON_SERVER_NOT_LIVE: _ClassVar[Reason]
    REASON_SERVER_NOT_READY: _ClassVar[Reason]
    REASON_MODEL_NOT_READY: _ClassVar[Reason]
    REASON_MODEL_UNANSWERED: _ClassVar[Reason]
    REASON_MODEL_WRONG_VERSION: _ClassVar[Reason]
    REASON_MODEL_HUNG: _ClassVar[Reason]
    REASON_MODEL_BUSY: _ClassVar[Reason]
    REASON_CANARY_FAILED: _ClassVar[Reason]
    REASON_CANARY_UNANSWERED: _ClassVar[Reason]
    REASON_CANARY_LATE: _ClassVar[Reason]
    REASON_CANARY_WRONG_ANSWER: _ClassVar[Reason]
    REASON_CANARY_TOO_LARGE: _ClassVar[Reason]
    REASON_CANARY_SLOW: _ClassVar[Reason]
    REASON_CANARY_TOO_SLOW: _ClassVar[Reason]
    REASON_TRAFFIC_SLOW: _ClassVar[Reason]
    REASON_TRAFFIC_FAILING: _ClassVar[Reason]
    REASON_STATISTICS_UNAVAILABLE: _ClassVar[Reason]
    REASON_GPU_UNAVAILABLE: _ClassVar[Reason]
    REASON_GPU_LOST: _ClassVar[Reason]
    REASON_GPU_XID: _ClassVar[Reason]
    REASON_GPU_ECC: _ClassVar[Reason]
    REASON_GPU_ROW_REMAP_FAILED: _ClassVar[Reason]
    REASON_GPU_RETIREMENT_PENDING: _ClassVar[Reason]
    REASON_GPU_MEMORY_EXHAUSTED: _ClassVar[Reason]
    REASON_GPU_MEMORY_LOW: _ClassVar[Reason]
    REASON_GPU_HOT: _ClassVar[Reason]
    REASON_GPU_THROTTLED: _ClassVar[Reason]
    REASON_GPU_FOREIGN_PROCESS: _ClassVar[Reason]
REASON_UNSPECIFIED: Reason
REASON_OK: Reason
REASON_NOT_PROVEN_YET: Reason
REASON_DRAINING: Reason
REASON_MAINTENANCE: Reason
REASON_CONFIG: Reason
REASON_COLD_STANDBY: Reason
REASON_MODEL_SET_DIFFERS: Reason
REASON_PORT_UNREACHABLE: Reason
REASON_SERVER_UNANSWERED: Reason
REASON_SERVER_NOT_LIVE: Reason
REASON_SERVER_NOT_READY: Reason
REASON_MODEL_NOT_READY: Reason
REASON_MODEL_UNANSWERED: Reason
REASON_MODEL_WRONG_VERSION: Reason
REASON_MODEL_HUNG: Reason
REASON_MODEL_BUSY: Reason
REASON_CANARY_FAILED: Reason
REASON_CANARY_UNANSWERED: Reason
REASON_CANARY_LATE: Reason
REASON_CANARY_WRONG_ANSWER: Reason
REASON_CANARY_TOO_LARGE: Reason
REASON_CANARY_SLOW: Reason
REASON_CANARY_TOO_SLOW: Reason
REASON_TRAFFIC_SLOW: Reason
REASON_TRAFFIC_FAILING: Reason
REASON_STATISTICS_UNAVAILABLE: Reason
REASON_GPU_UNAVAILABLE: Reason
REASON_GPU_LOST: Reason
REASON_GPU_XID: Reason
REASON_GPU_ECC: Reason
REASON_GPU_ROW_REMAP_FAILED: Reason
REASON_GPU_RETIREMENT_PENDING: Reason
REASON_GPU_MEMORY_EXHAUSTED: Reason
REASON_GPU_MEMORY_LOW: Reason
REASON_GPU_HOT: Reason
REASON_GPU_THROTTLED: Reason
REASON_GPU_FOREIGN_PROCESS: Reason
SENTENCE_FIELD_NUMBER: _ClassVar[int]
sentence: _descriptor.FieldDescriptor
