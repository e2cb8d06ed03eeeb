"""The error tree: each branch says who has to act. Pure."""

import errno
import re
from collections.abc import Sequence


class SidecarError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(SidecarError):
    """The operator has to change a file, a flag or the environment.

    The message lists every mistake, one a line, each with where it is and what was expected.
    """


class AddressUnusable(ConfigError):
    """An address cannot be listened on now; its holder may release it."""


class FileUnreadable(ConfigError):
    """A file that settings name cannot be read yet; it may appear, as with a mount."""


class PartMissing(ConfigError):
    """A program or file that this machine should provide is missing."""


class Unavailable(SidecarError):
    """An outside system did not answer, or cannot serve the request now; a retry may help."""


class NoRoom(Unavailable):
    """A disk of this machine is full or failing, though the file may be written."""


class Rejected(SidecarError):
    """An outside system rejected the request; the same request will fail again."""


class Refused(Unavailable):
    """The connection was refused: nothing listens at the outside system's address."""


class Overloaded(Unavailable):
    """The outside system refuses the request because too many others are queued."""


class Exiting(Unavailable):
    """The outside system is shutting down, and only finishes what it has."""


class DeadlineExceeded(Unavailable):
    """The outside system did not answer within the call's deadline."""


class AnswerTooLarge(Rejected):
    """The outside system's answer is larger than the caller accepts."""


class NotAdmitted(Rejected):
    """The outside system is alive and admits none of our calls of this kind.

    Its settings or ours have to change; restarting it is of no use.
    """


class Disabled(Rejected):
    """The outside system was started without this feature."""


class Unimplemented(Rejected):
    """The outside system does not know the call: it is something else, or too old."""


class NotFound(Rejected):
    """The outside system does not know what the request names."""


class SessionLost(Rejected):
    """The Consul session is gone: expired, invalidated by a check, or destroyed."""


class Interrupted(SidecarError):
    """The caller has stopped waiting; the message says what continues."""


class Corrupt(Rejected):
    """What was stored is not what its digest says; it must not be used."""


class Conflict(Rejected):
    """A precondition of the request does not hold: a value has changed, or a lock is taken."""


# asyncio's message for a failed connection has its address as Python prints it, but no reason.
_CONNECTING = re.compile(r"(Connect call failed|Multiple exceptions)\b.*", re.DOTALL)
_NOT_CONNECTED = {
    errno.ECONNREFUSED: "Connection refused",
    errno.ECONNRESET: "Connection reset by peer",
    errno.EHOSTUNREACH: "No route to host",
    errno.ENETUNREACH: "Network is unreachable",
    errno.ETIMEDOUT: "Connection timed out",
}
# What libraries add to a message: numbers, places in their source, Python objects.
_AROUND = re.compile(
    r"\[Errno -?\d+\] |\[(SSL|X509)[^\]]*\] | \(_ssl\.c:\d+\)|:? <\w+Error: .*", re.DOTALL
)


def words(error: BaseException) -> str:
    """A library's or the system's error for people: its text, or its kind, without Python details.

    Without the host or file where it happened, too, which the caller knows.
    """
    message = _message_of(getattr(error, "os_error", error))  # aiohttp's has the system's
    if message := _AROUND.sub("", message).strip():
        return message
    return "no answer in time" if isinstance(error, TimeoutError) else kind(error)


def kind(error: BaseException) -> str:
    """The kind, in words, of a library's error whose text is useless."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()


def _message_of(error: BaseException) -> str:
    match error:
        case OSError(errno=number, strerror=str(text)) if number is not None:
            return _CONNECTING.sub(_NOT_CONNECTED.get(number, "Cannot connect"), text)
        case KeyError():
            return f"no {error}"
        case TypeError():
            return "a value of another type"
    # For a response that is not HTTP, aiohttp adds the status that it would answer, and the place.
    text = str(getattr(error, "message", "") or error).strip()
    return text.partition("\n")[0].removesuffix(":") if hasattr(error, "message") else text


# Errors of reading a file that will not pass, because they are about its name.
_NEVER = {errno.EISDIR, errno.ENAMETOOLONG}


def unreadable(error: OSError | ValueError) -> type[ConfigError]:
    """The error for a file that cannot be read; a ValueError is about an impossible name."""
    if isinstance(error, OSError) and error.errno not in _NEVER:
        return FileUnreadable
    return ConfigError


# Errors of writing a file that are not about its place; NumPy's have no number.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, None}


def unwritable(error: OSError) -> type[ConfigError | NoRoom]:
    """The error for a file that cannot be written."""
    return NoRoom if error.errno in _FULL else ConfigError


def combined(mistakes: Sequence[ConfigError]) -> ConfigError:
    """Several mistakes as one error; of their kind if they share one, else a ConfigError."""
    kinds = {type(each) for each in mistakes}
    kind = kinds.pop() if len(kinds) == 1 else ConfigError
    return kind("\n".join(map(str, mistakes)))
