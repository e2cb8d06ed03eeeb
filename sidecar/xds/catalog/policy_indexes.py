"""Since which change of a policy requests have gone where they go, as far as observed. Pure.

What an Envoy remembers about sequences holds while it sees all requests of a sequence. It does not
while the sequence header is not in force, or the requests belong to another service.
Why: docs/decisions/0057-sequence-affinity.md.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from sidecar.traffic.policy import TrafficPolicy


@dataclass(frozen=True, slots=True)
class PolicyIndexes:
    """ModifyIndexes of a service's policy in KV, equal on all planes that saw every version.

    `written` is that of the policy in force, 0 without one. `followed` is when its
    `affinity.sequence_header` last changed, `claimed` when its `match` did. They are negative if
    the change was the removal of the document (then the index of the last document), or if Envoys
    had the default policy by mistake (then the Unix time in milliseconds).
    """

    written: int = 0
    followed: int = 0
    claimed: int = 0

    def changed(self, before: TrafficPolicy, after: TrafficPolicy, written: int) -> "PolicyIndexes":
        """The indexes after an observed change: no other policy was in force in between."""
        mark = written or -self.written
        same_header = before.affinity.sequence_header == after.affinity.sequence_header
        return PolicyIndexes(
            written,
            self.followed if same_header else mark,
            self.claimed if before.match == after.match else mark,
        )


NEVER = PolicyIndexes()  # nothing was read yet


def without_history(written: int, misled: int = 0) -> PolicyIndexes:
    """The indexes if the earlier policy was not observed.

    If Envoys were `misled`, that is, had the default policy at that time (Unix milliseconds), the
    state differs from every earlier one, earlier misled ones included.
    """
    mark = -misled or written
    return PolicyIndexes(written, mark, mark)


def claims(services: Iterable[tuple[str, PolicyIndexes]]) -> str:
    """A digest of all services' claims: while it is the same, no request changes its service."""
    text = "".join(f"{name}\0{since.claimed}\n" for name, since in services)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
