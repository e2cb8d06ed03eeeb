"""The evidence about a Triton: findings of layers, each with a reason code. Pure."""

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from sidecar.v1 import health_pb2

SERVER = ""  # the subject that is Triton itself, as in grpc.health.v1


class Level(IntEnum):
    """How bad a finding is. UNKNOWN counts neither for nor against."""

    UNKNOWN = -1
    OK = 0
    WARNING = 1
    CRITICAL = 2


class Layer(StrEnum):
    """What was probed, from the outside in."""

    PORT = "port"
    LIVE = "live"
    READY = "ready"
    MODEL = "model"
    CANARY = "canary"
    PROGRESS = "progress"
    TRAFFIC = "traffic"
    GPU = "gpu"
    MODEL_SET = "model set"


class Reason(StrEnum):
    """The reason of a finding or verdict: the names of `sidecar.v1.Reason`, which explains them."""

    OK = "OK"
    NOT_PROVEN_YET = "NOT_PROVEN_YET"
    DRAINING = "DRAINING"
    MAINTENANCE = "MAINTENANCE"
    CONFIG = "CONFIG"
    COLD_STANDBY = "COLD_STANDBY"
    MODEL_SET_DIFFERS = "MODEL_SET_DIFFERS"
    EVIDENCE_STALE = "EVIDENCE_STALE"
    PORT_UNREACHABLE = "PORT_UNREACHABLE"
    SERVER_UNANSWERED = "SERVER_UNANSWERED"
    SERVER_NOT_LIVE = "SERVER_NOT_LIVE"
    SERVER_NOT_READY = "SERVER_NOT_READY"
    MODEL_NOT_READY = "MODEL_NOT_READY"
    MODEL_UNANSWERED = "MODEL_UNANSWERED"
    MODEL_WRONG_VERSION = "MODEL_WRONG_VERSION"
    MODEL_HUNG = "MODEL_HUNG"
    MODEL_BUSY = "MODEL_BUSY"
    MODEL_STUB_DIED = "MODEL_STUB_DIED"
    CANARY_FAILED = "CANARY_FAILED"
    CANARY_UNANSWERED = "CANARY_UNANSWERED"
    CANARY_LATE = "CANARY_LATE"
    CANARY_WRONG_ANSWER = "CANARY_WRONG_ANSWER"
    CANARY_TOO_LARGE = "CANARY_TOO_LARGE"
    CANARY_SLOW = "CANARY_SLOW"
    CANARY_TOO_SLOW = "CANARY_TOO_SLOW"
    CANARY_NEVER_PASSED = "CANARY_NEVER_PASSED"
    TRAFFIC_SLOW = "TRAFFIC_SLOW"
    TRAFFIC_FAILING = "TRAFFIC_FAILING"
    STATISTICS_UNAVAILABLE = "STATISTICS_UNAVAILABLE"
    GPU_UNAVAILABLE = "GPU_UNAVAILABLE"
    GPU_LOST = "GPU_LOST"
    GPU_XID = "GPU_XID"
    GPU_ECC = "GPU_ECC"
    GPU_ROW_REMAP_FAILED = "GPU_ROW_REMAP_FAILED"
    GPU_RETIREMENT_PENDING = "GPU_RETIREMENT_PENDING"
    GPU_MEMORY_EXHAUSTED = "GPU_MEMORY_EXHAUSTED"
    GPU_MEMORY_LOW = "GPU_MEMORY_LOW"
    GPU_HOT = "GPU_HOT"
    GPU_THROTTLED = "GPU_THROTTLED"
    GPU_FOREIGN_PROCESS = "GPU_FOREIGN_PROCESS"

    @property
    def sentence(self) -> str:
        """Its meaning, for people."""
        value = health_pb2.Reason.DESCRIPTOR.values_by_name[f"REASON_{self}"]
        return str(value.GetOptions().Extensions[health_pb2.sentence])

    @property
    def level(self) -> Level:
        """How bad it is."""
        if self is Reason.OK:
            return Level.OK
        return _LEVELS.get(self, Level.CRITICAL)


# Requests are stuck in such a Triton until it is killed; only then can they be retried elsewhere.
HUNG = frozenset(
    {
        *(Reason.MODEL_HUNG, Reason.MODEL_STUB_DIED),
        *(Reason.CANARY_UNANSWERED, Reason.SERVER_UNANSWERED),
    }
)
_LEVELS = {
    **dict.fromkeys(
        (Reason.STATISTICS_UNAVAILABLE, Reason.GPU_UNAVAILABLE, Reason.EVIDENCE_STALE),
        Level.UNKNOWN,
    ),
    **dict.fromkeys(
        (
            Reason.SERVER_NOT_READY,
            Reason.MODEL_BUSY,
            Reason.CANARY_LATE,
            Reason.CANARY_SLOW,
            Reason.CANARY_NEVER_PASSED,
            Reason.TRAFFIC_SLOW,
            Reason.TRAFFIC_FAILING,
            Reason.GPU_RETIREMENT_PENDING,
            Reason.GPU_MEMORY_LOW,
            Reason.GPU_HOT,
            Reason.GPU_THROTTLED,
            Reason.GPU_FOREIGN_PROCESS,
        ),
        Level.WARNING,
    ),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one layer found out about one subject: the server, or a model by name.

    `seconds` is how long the probe took; `remark` is a note on how it was made. `strain` is how far
    the subject exceeds its budget, as a factor of at least 1; it lowers the weight of an instance
    in WARNING.
    """

    layer: Layer
    subject: str
    reason: Reason
    detail: str = ""
    seconds: float = 0.0
    strain: float = 1.0
    remark: str = ""

    @property
    def level(self) -> Level:
        """How bad it is."""
        return self.reason.level

    @property
    def ok(self) -> bool:
        """Whether it counts in favour of the subject."""
        return self.level is Level.OK
