"""Since which change of a policy requests have gone where they go, as far as that was seen. Pure.

What Envoys remember of sequences holds while these see all requests of a sequence. While its header
is not in force, or its requests are another service's, they do not.
Why so: docs/decisions/0057-sequence-affinity.md.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from sidecar.traffic.policy import TrafficPolicy


@dataclass(frozen=True, slots=True)
class PolicyIndexes:
    """ModifyIndexes of a service's policy in Consul's KV, the same for all who saw all of it.

    `written` is that of the policy in force, 0 without one. With `followed` its
    `affinity.sequence_header` came to be what it is, with `claimed` its `match`; negative, where
    that was otherwise without a document: the one of the last document before; or the Unix time in
    milliseconds at which Envoys had been misled.
    """

    written: int = 0
    followed: int = 0
    claimed: int = 0

    def changed(self, before: TrafficPolicy, after: TrafficPolicy, written: int) -> "PolicyIndexes":
        """What holds after a change that was seen: nothing else was in force between the two."""
        mark = written or -self.written
        same_header = before.affinity.sequence_header == after.affinity.sequence_header
        return PolicyIndexes(
            written,
            self.followed if same_header else mark,
            self.claimed if before.match == after.match else mark,
        )


NEVER = PolicyIndexes()  # nothing has been read yet


def anew(written: int, misled: int = 0) -> PolicyIndexes:
    """What holds where nobody saw what was in force before.

    If Envoys were `misled`, told what a policy has by default, at that time (Unix milliseconds), it
    is another state than any from before: also than one from before which they were misled as well.
    """
    mark = -misled or written
    return PolicyIndexes(written, mark, mark)


def claims(services: Iterable[tuple[str, PolicyIndexes]]) -> str:
    """Which state of all services' claims it is: while it stays, no request changes its service."""
    text = "".join(f"{name}\0{since.claimed}\n" for name, since in services)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
