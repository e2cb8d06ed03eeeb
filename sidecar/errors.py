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
    """An address cannot be listened on now; whoever has it may let go of it."""


class FileUnreadable(ConfigError):
    """A file that settings name cannot be read now; it may come, as with a mount."""


class PartMissing(ConfigError):
    """A program or file that this machine should provide is not there."""


class Unavailable(SidecarError):
    """An outside system did not answer, or answered that it cannot now; trying again may help."""


class Rejected(SidecarError):
    """An outside system understood the request and refused it; the same request will fail again."""


class Refused(Unavailable):
    """Nothing listens where the outside system should be."""


class Overloaded(Unavailable):
    """The outside system answers, and refuses the request because too many others wait in it."""


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


class NotFound(Rejected):
    """The outside system does not know the thing that the request names."""


class SessionLost(Rejected):
    """The Consul session is gone: expired, invalidated by a check, or destroyed."""


class Interrupted(SidecarError):
    """Whoever waited has stopped waiting; the message says what goes on without them."""


class Conflict(Rejected):
    """Something is not as the request wants it: it has changed, or somebody else holds it."""


def words(error: BaseException) -> str:
    """An error of somebody else's for people: its text, or its kind, but no name of Python's."""
    if text := str(error).strip():
        return text
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()


# Why a file cannot be read, where that is of its name and not of the time.
_NEVER = {errno.EISDIR, errno.ENAMETOOLONG}


def unreadable(error: OSError | ValueError) -> type[ConfigError]:
    """The kind of mistake that a file is which cannot be read; ValueError: no file has its name."""
    if isinstance(error, OSError) and error.errno not in _NEVER:
        return FileUnreadable
    return ConfigError


def together(mistakes: Sequence[ConfigError]) -> ConfigError:
    """Several mistakes as one, which may pass by itself only if all of them may."""
    kinds = {type(each) for each in mistakes}
    kind = kinds.pop() if len(kinds) == 1 else ConfigError
    return kind("\n".join(map(str, mistakes)))
