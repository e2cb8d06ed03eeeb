from google.protobuf import any_pb2 as _any_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WatchDrainRequest(_message.Message):
    __slots__ = ("service", "instance")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    service: str
    instance: str
    def __init__(self, service: _Optional[str] = ..., instance: _Optional[str] = ...) -> None: ...

class WatchDrainResponse(_message.Message):
    __slots__ = ("envoys", "envoys_acknowledged", "envoys_reported", "requests_in_flight", "nodes")
    ENVOYS_FIELD_NUMBER: _ClassVar[int]
    ENVOYS_ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    ENVOYS_REPORTED_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    envoys: int
    envoys_acknowledged: int
    envoys_reported: int
    requests_in_flight: int
    nodes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, envoys: _Optional[int] = ..., envoys_acknowledged: _Optional[int] = ..., envoys_reported: _Optional[int] = ..., requests_in_flight: _Optional[int] = ..., nodes: _Optional[_Iterable[str]] = ...) -> None: ...

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

class ListClientsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListClientsResponse(_message.Message):
    __slots__ = ("clients", "waiting")
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    clients: _containers.RepeatedCompositeFieldContainer[Client]
    waiting: int
    def __init__(self, clients: _Optional[_Iterable[_Union[Client, _Mapping]]] = ..., waiting: _Optional[int] = ...) -> None: ...

class Client(_message.Message):
    __slots__ = ("node", "protocol", "connected_seconds", "lag_seconds", "types")
    NODE_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LAG_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TYPES_FIELD_NUMBER: _ClassVar[int]
    node: str
    protocol: str
    connected_seconds: float
    lag_seconds: float
    types: _containers.RepeatedCompositeFieldContainer[ClientType]
    def __init__(self, node: _Optional[str] = ..., protocol: _Optional[str] = ..., connected_seconds: _Optional[float] = ..., lag_seconds: _Optional[float] = ..., types: _Optional[_Iterable[_Union[ClientType, _Mapping]]] = ...) -> None: ...

class ClientType(_message.Message):
    __slots__ = ("type_url", "accepted_version", "pending", "refused_version", "refused_reason", "refused_at", "behind")
    TYPE_URL_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    REFUSED_VERSION_FIELD_NUMBER: _ClassVar[int]
    REFUSED_REASON_FIELD_NUMBER: _ClassVar[int]
    REFUSED_AT_FIELD_NUMBER: _ClassVar[int]
    BEHIND_FIELD_NUMBER: _ClassVar[int]
    type_url: str
    accepted_version: str
    pending: bool
    refused_version: str
    refused_reason: str
    refused_at: float
    behind: _containers.RepeatedCompositeFieldContainer[PendingResource]
    def __init__(self, type_url: _Optional[str] = ..., accepted_version: _Optional[str] = ..., pending: _Optional[bool] = ..., refused_version: _Optional[str] = ..., refused_reason: _Optional[str] = ..., refused_at: _Optional[float] = ..., behind: _Optional[_Iterable[_Union[PendingResource, _Mapping]]] = ...) -> None: ...

class PendingResource(_message.Message):
    __slots__ = ("name", "published_version", "held_version", "standing")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_VERSION_FIELD_NUMBER: _ClassVar[int]
    HELD_VERSION_FIELD_NUMBER: _ClassVar[int]
    STANDING_FIELD_NUMBER: _ClassVar[int]
    name: str
    published_version: str
    held_version: str
    standing: str
    def __init__(self, name: _Optional[str] = ..., published_version: _Optional[str] = ..., held_version: _Optional[str] = ..., standing: _Optional[str] = ...) -> None: ...

class GetSnapshotRequest(_message.Message):
    __slots__ = ("bodies",)
    BODIES_FIELD_NUMBER: _ClassVar[int]
    bodies: bool
    def __init__(self, bodies: _Optional[bool] = ...) -> None: ...

class GetSnapshotResponse(_message.Message):
    __slots__ = ("version", "age_seconds", "resources", "clusters", "catalog_status")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    CLUSTERS_FIELD_NUMBER: _ClassVar[int]
    CATALOG_STATUS_FIELD_NUMBER: _ClassVar[int]
    version: str
    age_seconds: float
    resources: _containers.RepeatedCompositeFieldContainer[PublishedResource]
    clusters: _containers.RepeatedCompositeFieldContainer[PublishedCluster]
    catalog_status: str
    def __init__(self, version: _Optional[str] = ..., age_seconds: _Optional[float] = ..., resources: _Optional[_Iterable[_Union[PublishedResource, _Mapping]]] = ..., clusters: _Optional[_Iterable[_Union[PublishedCluster, _Mapping]]] = ..., catalog_status: _Optional[str] = ...) -> None: ...

class PublishedResource(_message.Message):
    __slots__ = ("type_url", "name", "version", "body")
    TYPE_URL_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    type_url: str
    name: str
    version: str
    body: _any_pb2.Any
    def __init__(self, type_url: _Optional[str] = ..., name: _Optional[str] = ..., version: _Optional[str] = ..., body: _Optional[_Union[_any_pb2.Any, _Mapping]] = ...) -> None: ...

class PublishedCluster(_message.Message):
    __slots__ = ("name", "endpoints")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    endpoints: _containers.RepeatedCompositeFieldContainer[PublishedEndpoint]
    def __init__(self, name: _Optional[str] = ..., endpoints: _Optional[_Iterable[_Union[PublishedEndpoint, _Mapping]]] = ...) -> None: ...

class PublishedEndpoint(_message.Message):
    __slots__ = ("instance", "address", "port", "priority", "weight", "health", "draining")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    instance: str
    address: str
    port: int
    priority: int
    weight: int
    health: str
    draining: bool
    def __init__(self, instance: _Optional[str] = ..., address: _Optional[str] = ..., port: _Optional[int] = ..., priority: _Optional[int] = ..., weight: _Optional[int] = ..., health: _Optional[str] = ..., draining: _Optional[bool] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("service", "instance")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    service: str
    instance: str
    def __init__(self, service: _Optional[str] = ..., instance: _Optional[str] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("placements",)
    PLACEMENTS_FIELD_NUMBER: _ClassVar[int]
    placements: _containers.RepeatedCompositeFieldContainer[Placement]
    def __init__(self, placements: _Optional[_Iterable[_Union[Placement, _Mapping]]] = ...) -> None: ...

class Placement(_message.Message):
    __slots__ = ("service", "cluster", "listed", "priority", "weight", "since", "why")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    LISTED_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    service: str
    cluster: str
    listed: bool
    priority: int
    weight: int
    since: float
    why: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, service: _Optional[str] = ..., cluster: _Optional[str] = ..., listed: _Optional[bool] = ..., priority: _Optional[int] = ..., weight: _Optional[int] = ..., since: _Optional[float] = ..., why: _Optional[_Iterable[str]] = ...) -> None: ...
