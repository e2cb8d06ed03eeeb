"""The error tree: each branch says who has to act."""

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
    """A file that settings name cannot be read now; it may come, as with a mount."""


class PartMissing(ConfigError):
    """A program or file that this machine should provide is not there."""


class Unavailable(SidecarError):
    """An outside system did not answer, or answered that it cannot now; trying again may help."""


class NoRoom(Unavailable):
    """A disk of this machine does not take what is to be written to it, though it may."""


class Rejected(SidecarError):
    """An outside system understood the request and refused it; the same request will fail again."""


class Refused(Unavailable):
    """Nothing listens where the outside system should be."""


class Overloaded(Unavailable):
    """The outside system answers, and refuses the request because too many others wait in it."""


class Exiting(Unavailable):
    """The outside system says that it is about to end, and finishes what it has."""


class DeadlineExceeded(Unavailable):
    """The outside system did not answer within the deadline of the call."""


class AnswerTooLarge(Rejected):
    """The outside system answered with more than the caller is willing to hold."""


class NotAdmitted(Rejected):
    """The outside system is alive and admits none of our calls of this kind.

    What is set about it has to be changed, here or there; to start it anew is of no use.
    """


class Disabled(Rejected):
    """The outside system does no such thing, as it was started."""


class Unimplemented(Rejected):
    """The outside system does not know the call: it is something else, or an older version."""


class NotFound(Rejected):
    """The outside system does not know the thing that the request names."""


class SessionLost(Rejected):
    """The Consul session is gone: expired, invalidated by a check, or destroyed."""


class Interrupted(SidecarError):
    """The caller has stopped waiting; the message says what goes on."""


class Conflict(Rejected):
    """Something is not as the request wants it: it has changed, or somebody else holds it."""


# What asyncio says of a connection tells its address as Python writes it, and not what is wrong.
_CONNECTING = re.compile(r"(Connect call failed|Multiple exceptions)\b.*", re.DOTALL)
_NOT_CONNECTED = {
    errno.ECONNREFUSED: "Connection refused",
    errno.ECONNRESET: "Connection reset by peer",
    errno.EHOSTUNREACH: "No route to host",
    errno.ENETUNREACH: "Network is unreachable",
    errno.ETIMEDOUT: "Connection timed out",
}
# What libraries put around the words: numbers, places in their source, objects of Python.
_AROUND = re.compile(
    r"\[Errno -?\d+\] |\[(SSL|X509)[^\]]*\] | \(_ssl\.c:\d+\)|:? <\w+Error: .*", re.DOTALL
)


def words(error: BaseException) -> str:
    """An error of somebody else's for people: its text, or its kind, but nothing of Python's.

    Nor where it happened, be it a host or a file, which the caller knows.
    """
    said = _said(getattr(error, "os_error", error))  # aiohttp's has the system's
    if said := _AROUND.sub("", said).strip():
        return said
    return "no answer in time" if isinstance(error, TimeoutError) else kind(error)


def kind(error: BaseException) -> str:
    """The kind of an error of somebody else's whose text is for nobody, in words."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()


def _said(error: BaseException) -> str:
    match error:
        case OSError(errno=number, strerror=str(text)) if number is not None:
            return _CONNECTING.sub(_NOT_CONNECTED.get(number, "Cannot connect"), text)
        case KeyError():
            return f"no {error}"
        case TypeError():
            return "a value of another type"
    # aiohttp says of an answer that is no HTTP with which status it would refuse it, and where.
    text = str(getattr(error, "message", "") or error).strip()
    return text.partition("\n")[0].removesuffix(":") if hasattr(error, "message") else text


# Why a file cannot be read, where that is of its name and not of the time.
_NEVER = {errno.EISDIR, errno.ENAMETOOLONG}


def unreadable(error: OSError | ValueError) -> type[ConfigError]:
    """The kind of mistake that a file is which cannot be read; ValueError: no file has its name."""
    if isinstance(error, OSError) and error.errno not in _NEVER:
        return FileUnreadable
    return ConfigError


# Why a file cannot be written, where nothing is wrong with its place; NumPy gives no number.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, None}


def unwritable(error: OSError) -> type[ConfigError | NoRoom]:
    """The kind of failure that a file is which cannot be written."""
    return NoRoom if error.errno in _FULL else ConfigError


def combined(mistakes: Sequence[ConfigError]) -> ConfigError:
    """Several mistakes as one, which may pass by itself only if all of them may."""
    kinds = {type(each) for each in mistakes}
    kind = kinds.pop() if len(kinds) == 1 else ConfigError
    return kind("\n".join(map(str, mistakes)))
