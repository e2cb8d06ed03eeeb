"""Translates gRPC statuses and Triton's error texts into the sidecar's own errors.

Triton answers UNAVAILABLE for conditions that need different reactions; only its text shows which.

Acts: grpc.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio

from sidecar.runtime.errors import (
    AnswerTooLarge,
    DeadlineExceeded,
    Disabled,
    Exiting,
    NotAdmitted,
    NotFound,
    Overloaded,
    Rejected,
    SidecarError,
    Unavailable,
    Unimplemented,
)

# Part of gRPC core's message when the peer's message exceeds our receive limit.
_TOO_LARGE = "CLIENT: Received message larger than max"
# UNAVAILABLE: Triton does not run in explicit model control mode. A retry is of no use.
_NOT_EXPLICIT = "explicit model load / unload is not allowed"
# UNAVAILABLE: the request's queue is full, or the request waited longer than the queue policy
# allows.
_REFUSED_FOR_LOAD = ("Exceeds maximum queue size", "Request timeout expired")
# The sequence has not started, or lost its slot: `max_sequence_idle_microseconds` also runs while
# the client waits for the response to a step.
_NOT_STARTED = "must specify the START flag on the first request"
# UNAVAILABLE: Triton is stopping gracefully. It answers every client so until its last request
# has finished.
_EXITING = "Server exiting"
# UNAVAILABLE: the client did not send the header that --grpc-restricted-protocol requires.
_RESTRICTED = "This protocol is restricted"
_ADMISSION = "expected what it asks for in triton.headers or triton.header_files"


class SequenceNotStarted(Rejected):
    """Triton holds no slot for the sequence that a step belongs to."""


def translate(error: grpc.RpcError) -> SidecarError:
    """The sidecar's own error for a gRPC status. Statuses as in gRPC's specification."""
    code = error.code() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    details = error.details() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    text = f"{code.name if code else 'UNKNOWN'}: {details or 'no details'}"
    match code:
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded("no answer in time")
        case grpc.StatusCode.UNAVAILABLE:
            return _unavailable(text)
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            return NotAdmitted(f"{text}: {_ADMISSION}")
        case grpc.StatusCode.CANCELLED | None:
            return Unavailable(text)
        case grpc.StatusCode.RESOURCE_EXHAUSTED if _TOO_LARGE in text:
            return AnswerTooLarge(text)
        case grpc.StatusCode.NOT_FOUND:
            return NotFound(text)
        case grpc.StatusCode.UNIMPLEMENTED:
            return Unimplemented(text)
        case _:
            return _rejected(text)


def from_response(text: str) -> SidecarError:
    """The error in a stream's response, which carries a text but no status."""
    return Overloaded(text) if _is_load(text) else _rejected(text)


@contextmanager
def lost_slot_is_overload(step: int) -> Iterator[None]:
    """Raise `Overloaded` if a sequence that has started lost its slot to other sequences."""
    try:
        yield
    except SequenceNotStarted as error:
        if step:
            raise Overloaded(f"the sequence has lost its slot: {error}") from error
        raise


def parsed(message: Any) -> Any:
    """The message; gRPC passes None where it could not parse one.

    Raises:
        Rejected: it could not be parsed.
    """
    if message is None:
        raise Rejected("the answer cannot be decoded")
    return message


def _unavailable(text: str) -> SidecarError:
    if _NOT_EXPLICIT in text:
        return Disabled(text)
    if _is_load(text):
        return Overloaded(text)
    if _EXITING in text:
        return Exiting(text)
    return NotAdmitted(f"{text}: {_ADMISSION}") if _RESTRICTED in text else Unavailable(text)


def _rejected(text: str) -> Rejected:
    return SequenceNotStarted(text) if _NOT_STARTED in text else Rejected(text)


def _is_load(text: str) -> bool:
    return any(each in text for each in _REFUSED_FOR_LOAD)
